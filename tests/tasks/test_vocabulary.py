import base64
import copy
import json
import pathlib
import pickle
import shutil
import socket
import time

import pytest
import sentencepiece
import seqio
from sentencepiece import sentencepiece_model_pb2

import hyperprompt_tasks
from hyperprompt_tasks import registration, vocabulary

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


def trained(folder, **options):
  """A small SentencePiece model with the trainer's options."""
  # SeqIO keeps the models that it has read by their paths.
  path = folder / f'{len(list(folder.iterdir()))}.model'
  with path.open('wb') as file:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(['a small text of a few words', 'and another text'] * 20),
      model_writer=file,
      **{'vocab_size': 40, 'hard_vocab_limit': False, 'minloglevel': 2, **options},
    )
  return str(path)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    # SentencePiece's default makes unknown text padding, masked and without weight.
    ({}, r'its unknown piece has the id 0, which is padding'),
    (
      {'unk_id': 1, 'eos_id': 2, 'pad_id': 3, 'bos_id': -1},
      r"its piece '.*' has the id 0, which is pad",
    ),
    ({'unk_id': 2, 'pad_id': 0, 'bos_id': -1, 'eos_id': -1}, 'no piece that ends a text'),
  ],
)
def test_special_ids_that_do_not_fit_t5_are_refused(tmp_path, options, message):
  with pytest.raises(hyperprompt_tasks.VocabularyError, match=message) as error:
    hyperprompt_tasks.use_vocabulary(trained(tmp_path, **options))
  assert '--pad_id=0 --eos_id=1 --unk_id=2' in str(error.value)


def test_special_ids_that_fit(tmp_path):
  t5 = {'pad_id': 0, 'eos_id': 1, 'unk_id': 2, 'bos_id': -1}
  ours = hyperprompt_tasks.use_vocabulary(trained(tmp_path, **t5))
  assert (ours.pad_id, ours.eos_id, ours.unk_id) == (0, 1, 2)
  # With byte fallback, the unknown piece is never used.
  fallback = trained(tmp_path, byte_fallback=True, vocab_size=300)
  ours = hyperprompt_tasks.use_vocabulary(fallback)
  assert ours.unk_id == 0 and 0 not in ours.encode('Ж ☃')


@pytest.mark.parametrize('name', [None, '', 3, ['a.model']])
def test_a_name_that_is_no_text_is_refused(name):
  with pytest.raises(hyperprompt_tasks.VocabularyError, match=r'VOCABULARY is .*; exp'):
    hyperprompt_tasks.use_vocabulary(name)


@pytest.mark.parametrize(
  ('labels', 'message'),
  [
    (('small', 'wörd'), "cannot write the label 'wörd', which becomes"),
    (('a  text',), "cannot write the label 'a  text', which becomes 'a text'"),
    ((' text',), "cannot write the label ' text', which becomes 'text'"),
  ],
)
def test_labels_that_a_vocabulary_cannot_write(tmp_path, labels, message):
  t5 = {'pad_id': 0, 'eos_id': 1, 'unk_id': 2, 'bos_id': -1}
  ours = hyperprompt_tasks.use_vocabulary(trained(tmp_path, **t5))
  vocabulary.check_labels('t', ('small', 'words'), ours)
  with pytest.raises(hyperprompt_tasks.VocabularyError, match=f'task t: .*{message}'):
    vocabulary.check_labels('t', labels, ours)


def test_labels_that_a_vocabulary_writes_alike():
  with pytest.raises(hyperprompt_tasks.VocabularyError, match="labels 'a' and 'a' in the"):
    vocabulary.check_labels('t', ('a', 'a'), seqio.ByteVocabulary())


# ---- Folders of models ----


def folder_of(tmp_path, model_file, sentinels=100, **changes):
  """A folder as Transformers 5 writes it: `tokenizer.json`, without `spiece.model`."""
  proto = sentencepiece_model_pb2.ModelProto()
  proto.ParseFromString(pathlib.Path(model_file).read_bytes())
  special = {'id': 0, 'special': True, 'normalized': False}
  pieces = [[piece.piece, piece.score] for piece in proto.pieces]
  extra = [f'<extra_id_{i}>' for i in reversed(range(sentinels))]
  names = ['<pad>', '</s>', '<unk>']
  charsmap = base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()
  metaspace = {'type': 'Metaspace', 'replacement': '▁', 'prepend_scheme': 'always'}
  tokenizer = {
    'added_tokens': [
      *({**special, 'id': i, 'content': name} for i, name in enumerate(names)),
      *(
        {**special, 'id': len(pieces) + i, 'content': name} for i, name in enumerate(extra)
      ),
    ],
    'normalizer': {'type': 'Precompiled', 'precompiled_charsmap': charsmap},
    'pre_tokenizer': {
      'type': 'Sequence',
      'pretokenizers': [{'type': 'WhitespaceSplit'}, {**metaspace, 'split': True}],
    },
    'model': {
      'type': 'Unigram',
      'unk_id': 2,
      'vocab': [*pieces, *([name, 0.0] for name in extra)],
      'byte_fallback': False,
    },
    **changes,
  }
  (tmp_path / 'tokenizer.json').write_text(json.dumps(tokenizer))
  return tmp_path


T5_IDS = {'pad_id': 0, 'eos_id': 1, 'unk_id': 2, 'bos_id': -1}


@pytest.fixture(scope='module')
def pieces(tmp_path_factory):
  """A small SentencePiece model with T5's special ids."""
  return trained(tmp_path_factory.mktemp('pieces'), **T5_IDS)


@pytest.mark.parametrize('sentinels', [100, 3])
def test_pieces_without_a_sentencepiece_file_give_its_ids(tmp_path, pieces, sentinels):
  made = hyperprompt_tasks.use_vocabulary(str(folder_of(tmp_path, pieces, sentinels)))
  want = hyperprompt_tasks.use_vocabulary(f'{pieces}:{sentinels}')
  assert made.vocab_size == want.vocab_size
  assert (made.pad_id, made.eos_id, made.unk_id) == (0, 1, 2)
  for text in (
    'a small text',
    '  two  blanks ',
    'tab\tand\nline',
    'ﬁne ½ \u00a0x\u3000',
    'Ж ☃',
    'a <extra_id_0> b <extra_id_2>',
  ):
    assert made.encode(text) == want.encode(text), text
    assert made.decode(made.encode(text)) == want.decode(want.encode(text))
  assert made.encode('<extra_id_0>')[-1] == made.vocab_size - 1


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'model': {'type': 'BPE', 'vocab': {}}}, 'it holds no Unigram model'),
    ({'normalizer': None}, 'it does not normalise and split text as'),
    ({'normalizer': {'type': 'Sequence', 'normalizers': []}}, 'it does not normalise'),
    ({'pre_tokenizer': {'type': 'Whitespace'}}, 'it does not normalise and split'),
    ({'model': {'type': 'Unigram', 'unk_id': 0, 'vocab': [3]}}, 'its pieces cannot be'),
    (
      {'model': {'type': 'Unigram', 'unk_id': 0, 'vocab': [['<0x00>', 0.0]]}},
      'unknown text falls back to bytes',
    ),
    ({'added_tokens': [{'id': 900, 'content': '<extra_id_7>'}]}, 'is not where SeqIO'),
    ({'added_tokens': [{'id': 5}]}, 'its pieces cannot be'),
    ({'added_tokens': [3]}, 'its pieces cannot be'),
    ({'added_tokens': [{'id': 5, 'content': '[NEW]'}]}, r'1 token\(s\) were added'),
  ],
)
def test_pieces_that_would_give_other_ids_are_refused(tmp_path, pieces, changes, message):
  folder = folder_of(tmp_path, pieces, **changes)
  with pytest.raises(hyperprompt_tasks.VocabularyError, match=message):
    hyperprompt_tasks.use_vocabulary(str(folder))


@pytest.mark.parametrize(
  ('settings', 'extra_ids'),
  [
    ({}, 100),
    ({'extra_ids': 0}, 0),
    ({'additional_special_tokens': [f'<extra_id_{i}>' for i in range(300)]}, 300),
    ({'added_tokens_decoder': {'40': {'content': '<extra_id_0>'}}}, 1),
  ],
)
def test_a_folder_tells_the_number_of_its_sentinels(tmp_path, pieces, settings, extra_ids):
  shutil.copy(pieces, tmp_path / 'spiece.model')
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps(settings))
  ours = hyperprompt_tasks.use_vocabulary(str(tmp_path))
  plain = seqio.SentencePieceVocabulary(pieces)
  assert ours.vocab_size == plain.vocab_size + extra_ids


def test_tokens_that_were_added_beside_the_pieces_are_refused(tmp_path, pieces):
  shutil.copy(pieces, tmp_path / 'spiece.model')
  (tmp_path / 'added_tokens.json').write_text('{"[NEW]": 50}')
  with pytest.raises(hyperprompt_tasks.VocabularyError, match=r"such as '\[NEW\]', which"):
    hyperprompt_tasks.use_vocabulary(str(tmp_path))


@pytest.mark.parametrize('file', ['tokenizer_config.json', 'config.json'])
def test_the_folder_of_a_byt5_has_bytes(tmp_path, file):
  (tmp_path / file).write_text('{"tokenizer_class": "ByT5Tokenizer"}')
  ours = hyperprompt_tasks.use_vocabulary(str(tmp_path))
  assert ours == seqio.ByteVocabulary()
  assert ours.encode('a')[0] == ord('a') + 3 and ours.eos_id == 1
