"""Faults in data and models, and where each is tested. Killed runs and full disks are with the tests of
checkpoints.

| fault | expectation | test |
|---|---|---|
| a batch of padding alone | weighs nothing, in training and evaluation | `test_batches.py` |
| all labels -100 | the rest is trained on; no loss of 0 in evaluation | `test_batches.py`, `test_trainer.py` |
| empty, zero-length text | padding; a batch of nothing else is refused | `test_batches.py`, `test_texts.py` |
| one example, one class, no rows | learned; refused | `test_batches.py`, `data/test_text.py` |
| tokens and labels out of range | refused with the row, before a device sees them | `test_batches.py` |
| 100,000 characters, emoji, right to left, NUL | read, and predicted row by row | `test_texts.py` |
| lone surrogates | refused with file and line | `test_texts.py`, `data/test_text.py`, `data/test_streams.py` |
| NaN in student, teacher, cache, one objective | no step; both named | `test_not_finite.py`, `test_trainer.py` |
| NaN on one rank | all ranks stop, and name it | `test_processes.py` |
| NaN for a cache, in predictions | refused | `teachers/test_cache_files.py`, `evaluation/test_metrics.py` |
| a vocabulary padded to a multiple of 64 | extra columns are ignored | `test_teachers.py`, `test_vocabulary.py` |
| another vocabulary, tokenizer, length | refused | `test_teachers.py`, `commands/test_bad_input.py` |
| other labels, another task | aligned by name, or refused | `test_trainer.py` |
| another dtype, 8 bits, an adapter | taught from as it is | `test_teachers.py`, `teachers/test_cache_files.py` |
| a worker killed | `DataError` at once; the checkpoint before it stays | `test_processes.py`, `test_sources.py` |
| a rank killed, or raising | the others end within two minutes | `test_processes.py` |
| a source vanishing in mid-epoch | `DataError` that names it | `test_sources.py` |
| pickles in model folders, code without the flag | a canary file never appears | `test_folders.py` |
| pickles in checkpoints | a resume does not run them | `test_folders.py` |
| `..`, absolute paths, links | refused | `test_folders.py`, `hub/test_folder.py` |
| `!!python`, bombs, 1 GB of YAML | refused unparsed | `test_folders.py`, `recipe/test_hostile_recipes.py` |
| HTML and newlines in names | text in cards and reports | `hub/test_card.py`, `evaluation/test_report.py` |
| a token in environment, arguments, settings | in no file, no message | `test_secrets.py`, `hub/test_publish.py` |
| damaged recipes, records, caches | read or refused | `slow/fuzzing.py`, `property/test_recipes.py` |

Files without a folder are here or in `tests/`.
"""
