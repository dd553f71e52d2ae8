"""`hyperprompt convert`: converts a T5 of T5X, Hugging Face or a run to another format.

A Hugging Face folder keeps a method's prompts, with a modelling file that gives each row
those of its task (trust_remote_code). A bundle is a run without optimizer, data and paths:
parameters, record, vocabulary and a model card. StableHLO is programs that encode, decode
and score on CPU, CUDA and TPU in a process that imports JAX alone. ONNX is graphs for ONNX
Runtime, which answers faster on a CPU, in float32 or int8.
"""

import json
from collections.abc import Sequence

from hyperprompt_jax.cli import arguments
from hyperprompt_jax.errors import UserError

NEEDS = ('tensorflow', 'hyperprompt_jax.checkpoints.convert')


def parse(words: Sequence[str]) -> arguments.Parsed:
  """Parses the words after the verb."""
  parser = arguments.Parser('convert', __doc__)
  parser.add_argument(
    '--input',
    required=True,
    metavar='PATH',
    help='a T5X checkpoint (local or gs://), a Hugging Face folder, or a MODEL_DIR (its '
    'latest checkpoint) or MODEL_DIR/checkpoints/STEP',
  )
  parser.add_argument('--output', required=True, help='folder to write; must not exist')
  parser.add_argument(
    '--to',
    required=True,
    choices=('t5x', 'huggingface', 'bundle', 'stablehlo', 'onnx'),
    help='the format to write',
  )
  parser.add_argument(
    '--vocab_size',
    type=int,
    metavar='ROWS',
    help='pad or truncate the rows of the vocabulary (T5 has 32100 ids, its checkpoints '
    'have 32128 rows); by default they stay as they are',
  )
  parser.add_argument(
    '--dtype',
    choices=('float32', 'bfloat16', 'int8'),
    help='by default arrays keep their dtype; int8 is for ONNX, which has no bfloat16',
  )
  parser.add_argument(
    '--drop_method',
    action='store_true',
    help="leave out the method's parameters, or the prompts that it makes",
  )
  parser.add_argument(
    '--keep_nonfinite',
    action='store_true',
    help='convert NaN and infinite values, which are refused otherwise, with a warning',
  )
  parser.add_argument(
    '--license',
    default='unknown',
    metavar='NAME',
    help='the licence that the model card names, such as apache-2.0',
  )
  parser.add_argument('--json', action='store_true', help='print one JSON object')
  parsed = parser.parse(words)
  _check(parsed)
  return parsed


def _check(parsed: arguments.Parsed) -> None:
  """Refuses flags that do not go together."""
  if parsed.bindings:
    raise UserError(
      f'convert takes no gin bindings, but --gin.{parsed.bindings[0]} was given'
    )
  flags = parsed.flags
  if flags.to in ('bundle', 'stablehlo', 'onnx') and (
    flags.vocab_size or flags.drop_method or flags.keep_nonfinite
  ):
    raise UserError(
      f'--to={flags.to} takes the whole model as it is: no --vocab_size, --drop_method or '
      '--keep_nonfinite'
    )
  if flags.dtype == ('bfloat16' if flags.to == 'onnx' else 'int8'):
    choices = 'float32 or int8' if flags.to == 'onnx' else 'float32 or bfloat16'
    raise UserError(f'--to={flags.to} takes --dtype={choices}, not {flags.dtype}')
  vocab_size = flags.vocab_size
  if vocab_size is not None and vocab_size < 1:
    raise UserError(f'--vocab_size must be a positive integer, not {vocab_size}')


def run(parsed: arguments.Parsed) -> None:
  """`hyperprompt convert`."""
  from hyperprompt_jax.checkpoints import convert

  flags = parsed.flags
  converters = {
    convert.BUNDLE: convert.to_bundle,
    convert.STABLEHLO: convert.to_stablehlo,
    convert.ONNX: convert.to_onnx,
  }
  if flags.to in converters:
    report = converters[flags.to](
      flags.input, flags.output, dtype=flags.dtype, license_name=flags.license
    )
  else:
    report = convert.convert(
      flags.input,
      flags.output,
      flags.to,
      vocab_size=flags.vocab_size,
      dtype=flags.dtype,
      drop_method=flags.drop_method,
      keep_nonfinite=flags.keep_nonfinite,
      license_name=flags.license,
    )
  if flags.json:
    print(json.dumps(report))
  else:
    print(
      f'{report["checkpoint"]}: {report["parameters"]:,} parameters, '
      f'{report["bytes"] / 1e9:.2f} GB, step {report["step"]}'
    )
