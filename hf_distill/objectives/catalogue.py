"""The classes of all objectives, which `hf_distill.objectives` and `hf_distill` both show: the one list of them."""

from hf_distill.objectives.feature.activation_boundary import ActivationBoundary
from hf_distill.objectives.feature.attention_layer_map import AttentionLayerMap
from hf_distill.objectives.feature.attention_transfer import AttentionTransfer
from hf_distill.objectives.feature.delta import Delta
from hf_distill.objectives.feature.dmkd import DMKD
from hf_distill.objectives.feature.embedding_cosine import EmbeddingCosine
from hf_distill.objectives.feature.embedding_mse import EmbeddingMSE
from hf_distill.objectives.feature.factor_paraphraser import FactorParaphraser
from hf_distill.objectives.feature.factor_transfer import FactorTransfer
from hf_distill.objectives.feature.feature_map_transfer import FeatureMapTransfer
from hf_distill.objectives.feature.fine_grained_imitation import FineGrainedImitation
from hf_distill.objectives.feature.fitnets_hint import FitNetsHint
from hf_distill.objectives.feature.gradient_attention_transfer import GradientAttentionTransfer
from hf_distill.objectives.feature.hidden_cosine import HiddenCosine
from hf_distill.objectives.feature.hidden_mse import HiddenMSE
from hf_distill.objectives.feature.holistic_kd import HolisticKD
from hf_distill.objectives.feature.jacobian_matching import JacobianMatching
from hf_distill.objectives.feature.jacobian_matching_noise import JacobianMatchingNoise
from hf_distill.objectives.feature.knowledge_preregression import KnowledgePreregression
from hf_distill.objectives.feature.knowledge_preregression_heads import KnowledgePreregressionHeads
from hf_distill.objectives.feature.layer_combination import LayerCombination
from hf_distill.objectives.feature.multilingual_mse import MultilingualMSE
from hf_distill.objectives.feature.nst import NST
from hf_distill.objectives.feature.pkd import PKD
from hf_distill.objectives.feature.pooled_distance import PooledDistance
from hf_distill.objectives.feature.ted import TED
from hf_distill.objectives.feature.ted_filters import TEDFilters
from hf_distill.objectives.feature.vid import VID
from hf_distill.objectives.online.deep_mutual_learning import DeepMutualLearning
from hf_distill.objectives.online.knowledge_flow import KnowledgeFlow
from hf_distill.objectives.online.okddip import OKDDip
from hf_distill.objectives.relation.attention_kl import AttentionKL
from hf_distill.objectives.relation.attention_mse import AttentionMSE
from hf_distill.objectives.relation.cka import CKA
from hf_distill.objectives.relation.correlation_congruence import CorrelationCongruence
from hf_distill.objectives.relation.crd import CRD
from hf_distill.objectives.relation.crd_memory import CRDMemory
from hf_distill.objectives.relation.darkrank_hard import DarkRankHard
from hf_distill.objectives.relation.darkrank_soft import DarkRankSoft
from hf_distill.objectives.relation.fsp import FSP
from hf_distill.objectives.relation.margin_mse import MarginMSE
from hf_distill.objectives.relation.mhgd import MHGD
from hf_distill.objectives.relation.mhgd_estimator import MHGDEstimator
from hf_distill.objectives.relation.minilm import MiniLM
from hf_distill.objectives.relation.minilm_v2 import MiniLMv2
from hf_distill.objectives.relation.pairwise_kd import PairwiseKD
from hf_distill.objectives.relation.pkt import PKT
from hf_distill.objectives.relation.region_affinity import RegionAffinity
from hf_distill.objectives.relation.rkd_angle import RKDAngle
from hf_distill.objectives.relation.rkd_distance import RKDDistance
from hf_distill.objectives.relation.similarity_distribution import SimilarityDistribution
from hf_distill.objectives.relation.similarity_preserving import SimilarityPreserving
from hf_distill.objectives.relation.svd_kd import SVDKD
from hf_distill.objectives.relation.voted_triplets import VotedTriplets
from hf_distill.objectives.response.annealing import Annealing
from hf_distill.objectives.response.ban_cwtm import BanCWTM
from hf_distill.objectives.response.bounded_regression import BoundedRegression
from hf_distill.objectives.response.ctc_nbest_kd import CTCNBestKD
from hf_distill.objectives.response.dist import DIST
from hf_distill.objectives.response.dkd import DKD
from hf_distill.objectives.response.dkpp import DKPP
from hf_distill.objectives.response.gold import GOLD
from hf_distill.objectives.response.labels import Labels
from hf_distill.objectives.response.learning_without_forgetting import LearningWithoutForgetting
from hf_distill.objectives.response.nbest_kd import NBestKD
from hf_distill.objectives.response.next_sentence import NextSentence
from hf_distill.objectives.response.pretraining_distillation import PretrainingDistillation
from hf_distill.objectives.response.soft_targets import SoftTargets
from hf_distill.objectives.response.standardized_kl import StandardizedKL
from hf_distill.objectives.response.tf_kd_reg import TfKDReg
from hf_distill.objectives.response.tokenwise_kd import TokenwiseKD
from hf_distill.objectives.response.uld import ULD
from hf_distill.objectives.response.weighted_soft_ce import WeightedSoftCE
from hf_distill.objectives.self_distillation.cs_kd import CSKD
from hf_distill.objectives.self_distillation.ddgsd import DDGSD

__all__ = [
    "CKA",
    "CRD",
    "CSKD",
    "DDGSD",
    "DIST",
    "DKD",
    "DKPP",
    "DMKD",
    "FSP",
    "GOLD",
    "MHGD",
    "NST",
    "PKD",
    "PKT",
    "SVDKD",
    "TED",
    "ULD",
    "VID",
    "ActivationBoundary",
    "Annealing",
    "AttentionKL",
    "AttentionLayerMap",
    "AttentionMSE",
    "AttentionTransfer",
    "BanCWTM",
    "BoundedRegression",
    "CRDMemory",
    "CTCNBestKD",
    "CorrelationCongruence",
    "DarkRankHard",
    "DarkRankSoft",
    "DeepMutualLearning",
    "Delta",
    "EmbeddingCosine",
    "EmbeddingMSE",
    "FactorParaphraser",
    "FactorTransfer",
    "FeatureMapTransfer",
    "FineGrainedImitation",
    "FitNetsHint",
    "GradientAttentionTransfer",
    "HiddenCosine",
    "HiddenMSE",
    "HolisticKD",
    "JacobianMatching",
    "JacobianMatchingNoise",
    "KnowledgeFlow",
    "KnowledgePreregression",
    "KnowledgePreregressionHeads",
    "Labels",
    "LayerCombination",
    "LearningWithoutForgetting",
    "MHGDEstimator",
    "MarginMSE",
    "MiniLM",
    "MiniLMv2",
    "MultilingualMSE",
    "NBestKD",
    "NextSentence",
    "OKDDip",
    "PairwiseKD",
    "PooledDistance",
    "PretrainingDistillation",
    "RKDAngle",
    "RKDDistance",
    "RegionAffinity",
    "SimilarityDistribution",
    "SimilarityPreserving",
    "SoftTargets",
    "StandardizedKL",
    "TEDFilters",
    "TfKDReg",
    "TokenwiseKD",
    "VotedTriplets",
    "WeightedSoftCE",
]
