import copy
import pathlib
import pickle
import shutil
import socket
import time

import pytest
import seqio

import hyperprompt_tasks
from hyperprompt_tasks import registration

SENTENCEPIECE = str(
  pathlib.Path(seqio.__file__).parent
  / 'test_data'
  / 'sentencepiece'
  / 'sentencepiece.model'
)


def feature():
  return seqio.TaskRegistry.get('hp_builtin_copy').output_features['inputs']


def first_inputs():
  task = seqio.TaskRegistry.get('hp_builtin_copy')
  dataset = task.get_dataset(None, 'validation', shuffle=False)
  return next(dataset.as_numpy_iterator())['inputs'].tolist()


def test_tasks_use_the_vocabulary_set_last():
  text = 'copy: '
  bytes_vocabulary = hyperprompt_tasks.use_vocabulary('bytes')
  assert first_inputs()[:6] == bytes_vocabulary.encode(text)
  pieces = hyperprompt_tasks.use_vocabulary(SENTENCEPIECE)
  # The small model knows neither `y` nor the colon.
  assert pieces.decode(first_inputs()) == 'cop ⁇ : hcahaa'
  assert first_inputs()[-1] == pieces.eos_id


def test_a_sentencepiece_file_without_sentinels_gets_t5s_hundred():
  plain = seqio.SentencePieceVocabulary(SENTENCEPIECE)
  ours = hyperprompt_tasks.use_vocabulary(SENTENCEPIECE)
  assert ours.vocab_size == plain.vocab_size + 100
  assert ours.encode('<extra_id_0>')[-1] == ours.vocab_size - 1


def test_a_sentencepiece_file_with_sentinels_is_taken_as_it_is(tmp_path):
  path = tmp_path / 'sentinels.model'
  path.write_bytes(seqio.SentencePieceVocabulary(SENTENCEPIECE, extra_ids=100).sp_model)
  ours = hyperprompt_tasks.use_vocabulary(str(path))
  assert ours.vocab_size == seqio.SentencePieceVocabulary(str(path)).vocab_size


@pytest.mark.parametrize('name', ['bytes', SENTENCEPIECE])
def test_the_tasks_vocabulary_acts_as_the_one_in_use(name):
  real = hyperprompt_tasks.use_vocabulary(name)
  ours = feature().vocabulary
  assert ours == real
  text = 'ab cd'
  ids = real.encode(text)
  assert ours.encode(text) == ids
  assert ours.decode(ids) == real.decode(ids)
  assert ours.encode_tf(text).numpy().tolist() == ids
  assert ours.decode_tf(ours.encode_tf(text)).numpy() == real.decode(ids).encode()
  for attribute in ('vocab_size', 'extra_ids', 'pad_id', 'eos_id', 'unk_id', 'bos_id'):
    assert getattr(ours, attribute) == getattr(real, attribute)


def test_the_tasks_vocabulary_differs_from_any_other():
  hyperprompt_tasks.use_vocabulary('bytes')
  assert feature().vocabulary != seqio.ByteVocabulary(extra_ids=7)
  assert feature().vocabulary != seqio.SentencePieceVocabulary(SENTENCEPIECE)


def test_copies_follow_the_vocabulary_in_use():
  vocabulary = feature().vocabulary
  copies = [copy.deepcopy(vocabulary), pickle.loads(pickle.dumps(vocabulary))]
  real = hyperprompt_tasks.use_vocabulary(SENTENCEPIECE)
  assert all(vocabulary == real for vocabulary in copies)


def test_every_task_has_the_features_of_the_others():
  ours = [name for name in seqio.TaskRegistry.names() if name.startswith('hp_')]
  assert len(ours) >= 20
  for name in ours:
    features = seqio.TaskRegistry.get(name).output_features
    assert dict(features) == registration.OUTPUT_FEATURES
    assert features['inputs'].add_eos and features['targets'].add_eos
    assert not features['inputs'].required


@pytest.mark.parametrize('content', [None, b'', b'no model'])
def test_a_file_that_is_no_vocabulary_is_refused_in_one_line(tmp_path, content):
  path = tmp_path / 'pieces.model'
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(hyperprompt_tasks.VocabularyError) as error:
    hyperprompt_tasks.use_vocabulary(str(path))
  assert str(error.value).startswith(f'vocabulary {path} cannot be read: ')
  assert '\n' not in str(error.value)


def test_a_failed_change_keeps_the_vocabulary(tmp_path):
  hyperprompt_tasks.use_vocabulary('bytes')
  with pytest.raises(ValueError, match='cannot be read'):
    hyperprompt_tasks.use_vocabulary(str(tmp_path / 'absent.model'))
  assert feature().vocabulary == seqio.ByteVocabulary()


def test_the_sentencepiece_file_of_a_hugging_face_folder(tmp_path):
  with pytest.raises(hyperprompt_tasks.VocabularyError, match=r'without a spiece\.model'):
    hyperprompt_tasks.use_vocabulary(str(tmp_path))
  shutil.copy(SENTENCEPIECE, tmp_path / 'spiece.model')
  ours = hyperprompt_tasks.use_vocabulary(str(tmp_path))
  theirs = hyperprompt_tasks.use_vocabulary(SENTENCEPIECE)
  assert (ours.sp_model, ours.vocab_size) == (theirs.sp_model, theirs.vocab_size)


def test_storage_that_does_not_answer_is_found_out_at_once(monkeypatch):
  with socket.create_server(('127.0.0.1', 0)) as server:
    port = server.getsockname()[1]
  monkeypatch.setenv('TENSORSTORE_GCS_HTTP_URL', f'http://127.0.0.1:{port}')
  start = time.monotonic()
  with pytest.raises(hyperprompt_tasks.VocabularyError) as error:
    hyperprompt_tasks.use_vocabulary(hyperprompt_tasks.DEFAULT_VOCABULARY)
  assert time.monotonic() - start < 15
  message = str(error.value)
  assert '\n' not in message and 'set VOCABULARY to a local copy' in message
  assert hyperprompt_tasks.DEFAULT_VOCABULARY in message
