"""Which tests show each stored refusal, by file, method and situation.

Tests are named as `path::function`, below `tests/`. Of a situation that cannot come up here a sentence says why.
"""

from __future__ import annotations

Tested = tuple[str, ...] | str

HERE = "test_refusals.py"
ANSWERS = "objectives/test_"

RESPONSE: dict[tuple[str, str], Tested] = {
    ("dkd", "two classes"): (f"{ANSWERS}dkd.py::test_refuses_two_classes",),
    ("dkd", "multi-label or regression head"): (f"{ANSWERS}dkd.py::test_refuses_tasks_without_one_class_a_row",),
    ("dkd", "labels absent from the batch"): (f"{ANSWERS}dkd.py::test_refuses_batches_without_labels",),
    ("dist", "two classes"): (f"{ANSWERS}dist.py::test_refuses_two_classes",),
    ("dist", "one counted row in the batch"): (
        f"{ANSWERS}dist.py::test_of_one_row_the_columns_say_nothing_and_that_is_said_once",
    ),
    ("standardized_kl", "two classes"): (f"{ANSWERS}standardized_kl.py::test_refuses_one_and_two_classes",),
    ("standardized_kl", "one class"): (f"{ANSWERS}standardized_kl.py::test_refuses_one_and_two_classes",),
    ("standardized_kl", "constant logits in a row"): (
        f"{ANSWERS}standardized_kl.py::test_a_row_of_equal_logits_says_nothing_and_that_is_said",
    ),
    ("tf_kd_reg", "two classes, small a"): (f"{ANSWERS}tf_kd_reg.py::test_warns_of_a_virtual_teacher_that_is_wrong",),
    ("tf_kd_reg", "one class or regression"): (
        f"{ANSWERS}tf_kd_reg.py::test_refuses_one_class",
        f"{ANSWERS}tf_kd_reg.py::test_refuses_tasks_without_one_class_a_row",
    ),
    ("cs_kd", "an example whose class has no partner in the batch or sampler"): (
        "data/test_pairs.py::test_a_class_of_one_row_is_warned_about_by_name",
        "data/test_pairs.py::test_what_cannot_be_paired_is_refused",
    ),
    ("soft_targets", "student and teacher class counts differ and neither vocab nor label_map is set"): (
        f"{HERE}::test_refuses_other_class_counts",
        "test_pair.py::test_other_counts_are_refused",
    ),
    ("soft_targets", "temperature <= 0"): (f"{HERE}::test_refuses_a_temperature_that_is_no_positive_number",),
    ("soft_targets", "single-output regression head (C = 1)"): (f"{HERE}::test_refuses_the_softmax_of_one_logit",),
    ("soft_targets_causal", "labels already shifted by the collator"): (
        "Labels that were shifted are token ids as others are: a batch does not tell them apart."
    ),
    ("topk_targets", "values=logprobs and temperature != 1 with a tail form"): (
        "teachers/test_top_logits.py::test_the_sum_of_the_rest_is_asked_for_at_the_training_temperature",
    ),
    ("topk_targets", "form=renormalized, student=renormalized, K = 1"): (
        "The student's law is over all classes: with tail='renormalized' its teacher's alone is that of the kept ones."
    ),
    ("topk_targets", "tail_bucket with K = V"): (
        "teachers/test_top_logits.py::test_all_classes_kept_is_the_plain_divergence",
    ),
    ("jsd", "beta = 0 or 1"): (f"{HERE}::test_accepts_the_ends_of_beta",),
}

FAMILIES: dict[tuple[str, str], Tested] = {
    ("hidden_cosine", "widths differ and no projection"): (f"{HERE}::test_refuses_other_widths_without_a_projection",),
    ("hidden_mse", "widths differ and no projection"): (f"{HERE}::test_refuses_other_widths_without_a_projection",),
    ("hidden_cosine", "all-zero vector"): (
        "contract/test_hidden_states.py::test_cosine_of_a_zero_vector_is_one_and_finite",
    ),
    ("margin_mse", "teacher scores on another scale than the similarity (cross-encoder logits with cosine)"): (
        "objectives/test_sentence_vectors.py::test_margins_that_cosines_cannot_reach_are_remarked_on",
    ),
    ("embedding_mse", "widths differ and no projection or PCA"): (
        "objectives/test_sentence_vectors.py::test_what_does_not_fit_is_refused",
    ),
    ("minilm", "student heads != teacher heads"): (f"{HERE}::test_refuses_other_heads_for_minilm",),
    ("minilm_v2", "a q, k or v width not divisible by relation_heads"): (
        f"{HERE}::test_refuses_relation_heads_that_do_not_divide",
    ),
    ("minilm_v2", "different tokenisation or sequence length on the two sides"): (
        f"{HERE}::test_refuses_relations_over_other_positions",
    ),
    ("minilm_v2", "sequence of one real token"): (f"{HERE}::test_accepts_a_text_of_one_token",),
    ("attention_mse", "head counts differ"): (f"{HERE}::test_refuses_other_numbers_of_heads",),
    ("attention_mse", "attention probabilities passed instead of scores"): (
        f"{HERE}::test_attention_probabilities_cannot_be_passed",
    ),
    ("attention_kl", "probabilities taken after dropout"): (f"{HERE}::test_attention_probabilities_cannot_be_passed",),
    ("attention_kl", "sdpa or flash attention"): (
        f"{HERE}::test_attention_probabilities_cannot_be_passed",
        "test_minilm.py::test_the_attention_function_does_not_matter",
    ),
    ("tinybert_layers", "teacher layers not a multiple of student layers"): (
        f"{HERE}::test_refuses_a_uniform_map_of_a_depth_that_does_not_divide",
    ),
    ("feature_map_transfer", "hidden widths differ"): (
        f"{HERE}::test_refuses_feature_maps_of_other_widths_and_depths",
    ),
    ("feature_map_transfer", "a teacher of another depth"): (
        f"{HERE}::test_refuses_feature_maps_of_other_widths_and_depths",
    ),
    ("pkd", "teacher or student without a [CLS]-like first token (causal models)"): (
        f"{HERE}::test_refuses_to_pool_a_causal_model_at_its_first_token",
    ),
}

BATCHES = "objectives/test_batch_relations.py"
TEXTS = "objectives/test_text_relations.py"
FEATURES = "objectives/test_features.py"
PASSES = "objectives/test_further_passes.py"

RELATIONS: dict[tuple[str, str], Tested] = {
    ("any token-level", "student and teacher token sequences differ and no alignment is given"): (
        f"{FEATURES}::test_refuses_other_tokens",
        f"{TEXTS}::test_other_positions_are_refused",
        "test_across_tokenizers.py::test_objectives_that_compare_token_by_token_are_refused_by_name",
    ),
    ("any", "an example with no counted token"): (
        "contract/test_contract.py::test_nothing_to_count_is_a_zero_with_a_graph",
        f"{TEXTS}::test_an_example_without_text_counts_nothing",
    ),
    ("any relation on the batch", "per-device training batch below the method's smallest batch"): (
        f"{BATCHES}::test_refuses_batches_that_are_too_small",
    ),
    ("any relation on the batch", "only the last batch is below it"): (
        f"{BATCHES}::test_a_short_last_batch_counts_nothing_and_is_told_once",
    ),
    ("fsp", "widths differ and no regressor"): (f"{TEXTS}::test_other_widths_are_refused",),
    ("delta", "widths differ or no starting point given"): (f"{FEATURES}::test_refuses_another_start",),
    ("svd_kd", "side right with different widths and no regressor"): (f"{TEXTS}::test_other_widths_are_refused",),
    ("svd_kd", "a used student singular value closer than 1e-4 (relative) to another"): (
        "objectives/test_singular_vectors.py::test_a_tie_of_a_used_vector_takes_its_gradient_away",
        "objectives/test_singular_vectors.py::test_vectors_without_a_gradient_are_counted_and_told",
    ),
    ("mhgd", "widths differ and no projection"): (f"{TEXTS}::test_other_widths_are_refused",),
    ("gradient_attention_transfer", "space shared with different embedding tables"): (
        f"{PASSES}::test_refuses_a_shared_space_of_two_tables",
    ),
    ("jacobian_matching", "space shared with different embedding tables"): (
        f"{PASSES}::test_refuses_a_shared_space_of_two_tables",
    ),
    ("gradient_attention_transfer", "a fused attention kernel is active"): (
        f"{PASSES}::test_refuses_a_fused_attention_before_the_first_step",
    ),
    ("jacobian_matching", "a fused attention kernel is active"): (
        f"{PASSES}::test_refuses_a_fused_attention_before_the_first_step",
    ),
    ("knowledge_preregression", "form class with fewer than two outputs or without labels for the first stage"): (
        f"{FEATURES}::test_refuses_a_softmax_that_says_nothing",
        f"{FEATURES}::test_heads_need_labels",
    ),
    ("darkrank_soft", "length above 6"): (f"{BATCHES}::test_refuses_settings",),
    ("darkrank_hard", "scores beyond 50 in size"): (
        f"{BATCHES}::test_warns_of_scores_that_leave_one_order_all_the_probability",
    ),
    ("pkt", "similarities of the teacher almost constant (off-diagonal cosines within 1e-3)"): (
        f"{BATCHES}::test_warns_of_a_teacher_whose_texts_are_all_alike",
    ),
    ("cka", "unbiased with fewer than 4 rows"): (
        f"{BATCHES}::test_refuses_batches_that_are_too_small",
        f"{BATCHES}::test_a_batch_is_one_unit_and_a_small_one_is_none",
    ),
    ("cka", "biased with rows not above 4 times the width"): (
        f"{BATCHES}::test_warns_of_biased_alignment_of_few_rows",
    ),
    ("rkd_distance", "all student vectors equal"): (f"{BATCHES}::test_warns_of_a_student_that_has_collapsed",),
    ("crd_memory", "examples without a stable index (streamed data)"): (
        "objectives/test_row_memory.py::test_refuses_a_stream",
    ),
    ("crd", "duplicate texts in a batch"): (f"{BATCHES}::test_equal_texts_are_no_negatives",),
    ("activation_boundary", "normed hidden states instead of pre-activations"): (
        f"{FEATURES}::test_hidden_states_have_no_boundary",
    ),
    ("holistic_kd", "batch normalisation in the discriminator with a gradient penalty"): (
        "objectives/test_holistic_kd.py::test_an_example_does_not_see_the_others",
    ),
    ("region_affinity", "no example of the batch has two regions"): (f"{TEXTS}::test_no_regions_to_compare",),
    ("fine_grained_imitation", "no token selected"): (f"{FEATURES}::test_no_chosen_token_is_a_zero_with_a_graph",),
    ("vid", "a predicted variance at its floor"): (f"{FEATURES}::test_a_variance_at_its_floor_is_remarked",),
}

ENSEMBLES = "teachers/test_ensemble.py"
ONLINE = "objectives/test_online.py"
QUANTIZED = "students/test_quantized.py"
FEW = "students/test_few_sample.py"
CHAINS = "runs/test_stage_teachers.py"

SCHEMES: dict[tuple[str, str], Tested] = {
    ("multi_teacher_kd", "weights negative or summing to 0 for an example"): (
        f"{ENSEMBLES}::test_settings_out_of_range",
    ),
    ("multi_teacher_kd", "stored average of T=1 probabilities asked for another T"): (
        f"{ENSEMBLES}::test_an_average_is_taken_at_the_temperature_of_each_term",
        f"{ENSEMBLES}::test_the_largest_logits_alone_are_not_averaged",
    ),
    ("multi_teacher_kd", "hidden-state or attention term on an averaged ensemble"): (
        f"{ENSEMBLES}::test_states_of_several_teachers_are_not_averaged",
    ),
    ("multi_teacher_kd", "members with different problem types"): (
        f"{ENSEMBLES}::test_teachers_of_other_problems_and_labels_are_named",
    ),
    ("confidence_weights", "one teacher"): (f"{ENSEMBLES}::test_one_member_is_the_teacher_itself",),
    ("confidence_weights", "example without label (label_ce, softmax)"): (
        f"{ENSEMBLES}::test_rows_without_a_label_weigh_all_alike",
    ),
    ("teacher_routing", "one member gets more than 95 % of the rows of an epoch"): (
        f"{ENSEMBLES}::test_a_member_with_nearly_all_rows_is_told",
    ),
    ("align_labels", "duplicate label names in one model"): (f"{HERE}::test_refuses_labels_of_one_name",),
    ("align_labels", "label sets differ with missing=refuse"): (
        "test_pair.py::test_names_that_mean_the_same_are_mapped",
        "objectives/test_forgetting.py::test_labels_that_are_not_all_there_are_refused",
    ),
    ("align_labels", "fewer than two common labels"): (
        "objectives/test_forgetting.py::test_one_old_label_is_refused",
    ),
    ("align_labels", "generic names LABEL_0.. on either side"): (
        "test_pair.py::test_one_side_without_names_asks_for_a_map",
        "objectives/test_forgetting.py::test_labels_without_names_are_to_be_renamed",
    ),
    ("align_labels", "language models whose tokenizers have different vocabularies"): (
        "test_pair.py::test_another_vocabulary_is_refused",
        "test_across_tokenizers.py::test_objectives_that_compare_token_by_token_are_refused_by_name",
    ),
    ("voted_triplets", "batch of fewer than three examples"): (
        "objectives/test_voted_triplets.py::test_a_batch_of_two_counts_nothing",
    ),
    ("voted_triplets", "all votes tied (even number of disagreeing teachers)"): (
        "objectives/test_voted_triplets.py::test_tied_votes_drop_and_are_told",
    ),
    ("knowledge_flow", "teacher with another tokenisation"): (
        f"{ONLINE}::test_a_teacher_with_other_positions",
        f"{ONLINE}::test_a_teacher_of_another_vocabulary",
    ),
    ("knowledge_flow", "smallest student share below 0.99 at the end"): (
        f"{ONLINE}::test_the_student_becomes_independent_or_it_is_told",
    ),
    ("knowledge_flow", "cached teacher without hidden states"): (f"{ONLINE}::test_a_cache_without_hidden_states",),
    ("teacher_assistant_kd", "assistant smaller than its student or larger than its teacher"): (
        f"{HERE}::test_warns_of_an_assistant_that_is_no_size_in_between",
    ),
    ("teacher_assistant_kd", "teacher / student parameter ratio below 3"): (
        f"{CHAINS}::test_an_assistant_between_teacher_and_student",
        f"{HERE}::test_warns_of_an_assistant_that_is_no_size_in_between",
    ),
    ("born_again_dkpp", "two classes"): ("objectives/test_dkpp.py::test_warns_of_two_classes",),
    ("born_again", "same seed and data order in every generation"): (
        f"{CHAINS}::test_generations_start_alike_and_learn_from_each_other",
    ),
    ("deep_mutual_learning", "fewer than two peers"): ("teachers/test_peers.py::test_no_peers",),
    ("deep_mutual_learning", "all peers have equal weights and no dropout"): (
        "teachers/test_peers.py::test_models_that_would_stay_equal",
    ),
    ("deep_mutual_learning", "peers with different vocabularies or label orders"): (
        "teachers/test_peers.py::test_labels_in_another_order",
        "test_pair.py::test_another_vocabulary_is_refused",
    ),
    ("okddip", "fewer than two auxiliary peers"): (f"{ONLINE}::test_peers_that_the_attention_cannot_serve",),
    ("okddip", "detach=all"): (f"{ONLINE}::test_targets_without_any_gradient",),
    ("okddip", "peer diversity below 1e-4"): (f"{ONLINE}::test_collapsed_peers_are_told",),
    ("learning_without_forgetting", "recorded logits with another tokenizer, truncation or augmentation"): (
        "teachers/test_cache_files.py::test_a_key_is_of_what_the_teacher_reads_without_padding",
        "teachers/test_cache_files.py::test_a_batch_that_was_not_read",
    ),
    ("learning_without_forgetting", "recording with dropout on"): (
        "objectives/test_forgetting.py::test_the_teacher_answers_without_dropout",
    ),
    ("learning_without_forgetting", "mean entropy of the old head on the new data above 0.9 log C"): (
        "objectives/test_forgetting.py::test_answers_that_say_nothing_are_told",
    ),
    ("distillation_retrospection", "student columns are not old + new"): (
        "objectives/test_forgetting.py::test_teachers_whose_labels_are_not_the_students_together_are_refused",
    ),
    ("distillation_retrospection", "no exemplars"): ("slow/test_lifelong.py::test_an_expert_and_exemplars",),
    ("exemplar_herding", "budget smaller than the number of classes"): ("data/test_exemplars.py::test_a_budget",),
    ("exemplar_herding", "m larger than the class"): (f"{HERE}::test_a_class_smaller_than_asked_for_is_taken_whole",),
    ("quantize_uniform", "bits below 1 or above 8, bucket size below 2"): (
        f"{QUANTIZED}::test_settings_without_a_grid_are_refused",
    ),
    ("quantize_uniform", "constant bucket"): (f"{QUANTIZED}::test_a_constant_bucket_stays_as_it_is",),
    ("quantize_uniform", "NaN or infinite weights"): (
        f"{QUANTIZED}::test_weights_that_are_not_finite_are_refused_by_name",
    ),
    ("quantize_points", "points unsorted or outside a sensible range after a step"): (
        f"{QUANTIZED}::test_the_order_of_points_does_not_matter",
    ),
    ("quantize_points", "learning rate above 1e-3"): (
        f"{QUANTIZED}::test_points_that_would_overtake_each_other_are_warned_about",
    ),
    ("fskd", "singular normal equations"): (f"{FEW}::test_too_few_tokens_without_a_ridge_are_refused",),
    ("fskd", "rows fewer than 4 times the width with relative ridge below 1e-3"): (
        f"{FEW}::test_a_projection_whose_error_would_grow_is_left_and_told",
        f"{FEW}::test_enough_tokens_or_a_ridge_need_no_warning",
    ),
    ("fskd", "tied output matrix"): (f"{FEW}::test_projections_into_which_nothing_can_be_merged_are_refused",),
    ("fskd", "adapter-wrapped or quantised Linear"): (
        f"{FEW}::test_projections_into_which_nothing_can_be_merged_are_refused",
    ),
    ("fskd", "held-out block error grows"): (f"{FEW}::test_a_projection_whose_error_would_grow_is_left_and_told",),
    ("svcca", "rows N not above 5 times the width"): (
        "evaluation/test_similarity.py::test_few_rows_are_warned_about",
    ),
    ("linear_cka", "constant activations"): (
        "evaluation/test_similarity.py::test_activations_that_say_nothing_are_refused",
    ),
    ("nbest", "empty n-best list"): (
        "data/test_hypotheses.py::test_a_row_without_hypotheses_is_named",
        "objectives/test_sequences.py::test_rows_without_hypotheses_are_refused",
    ),
    ("nbest", "CTC hypothesis longer than the student's frames"): (
        "objectives/test_sequences.py::"
        "test_a_hypothesis_of_too_many_symbols_is_left_out_and_the_others_are_weighed_anew",
    ),
    ("two_stage_textual", "token-level terms on two views with different tokenisation"): (
        f"{FEATURES}::test_refuses_other_tokens",
    ),
    ("annealing", "fewer phase-one epochs than tau_max"): (
        "objectives/test_answers_train.py::test_a_training_without_a_step_for_every_block_is_refused",
    ),
    ("teacher_weight", "all distillation weights 0"): (
        "test_weights.py::test_a_teacher_that_weighs_nothing_does_not_run",
    ),
    ("ema", "ZeRO-3"): ("teachers/test_moving_average.py::test_what_is_refused",),
    ("uncertainty_weighting", "one term"): ("test_weights.py::test_one_learned_weight_is_refused",),
    ("uncertainty_weighting", "a term that can reach 0"): (
        "test_weights.py::test_a_term_that_can_reach_zero_is_warned_about",
    ),
    ("pcgrad", "several processes, gradient scaling"): (
        "evaluation/test_conflicts.py::test_several_processes_and_scaled_gradients_are_refused",
    ),
    ("on_policy_draws", "lambda outside [0, 1]"): (
        "on_policy/test_policy.py::test_settings_out_of_range_are_refused",
    ),
    ("pseudo_select", "no example above the threshold"): (
        "Rows that a teacher is sure of are not chosen for their labels: soft targets take all rows."
    ),
    ("channel_importance", "calibration example without real tokens"): (
        f"{HERE}::test_a_text_without_tokens_measures_nothing",
        "students/test_shape.py::test_a_failed_calibration_leaves_the_teacher_as_it_was",
    ),
    ("prune", "keep count not below the original or below 1"): (
        "students/test_shape.py::test_refused_cuts",
        "students/test_shape.py::test_refusals",
        "students/test_shape.py::test_with_nothing_cut_it_gives_the_teachers_output",
    ),
    ("prune", "per-layer sizes in a family whose config has one size"): (
        "A size is one number for all layers of a student; a list of them is no whole number, and refused as such."
    ),
    ("cofi_alignment", "no unpruned student layer"): (
        "Layers are not pruned while a student trains: what is paired is known before, by the layer map."
    ),
    ("adapter_off", "head that was not in the base checkpoint"): (
        "recipe/test_lifelong.py::test_a_head_that_stays_as_it_is_must_have_been_trained",
        "teachers/test_adapter_off.py::test_a_head_that_the_adapter_saves_whole",
    ),
    ("adapter_off", "KL to the adapter-off base as the only term"): (
        "teachers/test_adapter_off.py::test_alone_it_teaches_nothing",
    ),
    ("adapter_off", "FSDP, ZeRO-3, torch.compile"): ("teachers/test_adapter_off.py::test_what_is_refused",),
    ("export", "int4 weights on CPU without the kernel package"): (
        "hub/test_export.py::test_what_cannot_be_exported_is_refused",
    ),
    ("export", "argmax agreement after reload below the threshold"): (
        "hub/test_export.py::test_an_export_that_answers_otherwise_is_not_written",
    ),
}

TESTED = {"response": RESPONSE, "families": FAMILIES, "relations": RELATIONS, "schemes": SCHEMES}
