"""The claims of the paper, each with its source, and the contrasts that test them."""

import dataclasses

POSTER = 'poster'
SUMMARY = 'summary'
OURS = 'ours'


@dataclasses.dataclass(frozen=True)
class Contrast:
  """A difference between two arms of study A or C that a claim says is above zero.

  Attributes:
    name: is its number in the pre-registration.
    claim: is the claim.
    source: names where the claim is from.
    one: is the method that is said to be better.
    other: is the method that it is compared with.
  """

  name: str
  claim: str
  source: str
  one: str
  other: str


SYNTHETIC = (
  Contrast('A1', 'HyperPrompt-Global beats MTL', POSTER, 'global', 'mtl'),
  Contrast(
    'A2', 'Global beats MTL with as many parameters in its MLP', OURS, 'global', 'wide_mtl'
  ),
  Contrast('A3', 'Global beats Share', SUMMARY, 'global', 'share'),
  Contrast('A4', 'Global beats Sep', SUMMARY, 'global', 'sep'),
  Contrast(
    'A5', 'Share beats Sep (on SuperGLUE; the reverse on GLUE)', SUMMARY, 'share', 'sep'
  ),
  Contrast(
    'A6', 'Global beats Prompt-Tuning, all tuned', SUMMARY, 'global', 'prompt_tuning'
  ),
  Contrast('A7', 'Global beats Adapter', OURS, 'global', 'adapter'),
  Contrast('A8', 'Global beats HyperFormer++', SUMMARY, 'global', 'hyperformer'),
  Contrast(
    'A9',
    'Prompts in the encoder beat those in the decoder',
    OURS,
    'global',
    'global_decoder',
  ),
  Contrast(
    'A10', 'Prompts in both beat those in the encoder', OURS, 'global_both', 'global'
  ),
)

LANGUAGE = (
  Contrast('C1', 'HyperPrompt-Global beats MTL on real language', POSTER, 'global', 'mtl'),
  Contrast('C2', 'Global beats Share on real language', SUMMARY, 'global', 'share'),
  Contrast('C3', 'Global beats Sep on real language', SUMMARY, 'global', 'sep'),
  Contrast(
    'C4',
    'Share beats Sep on real language (on SuperGLUE; the reverse on GLUE)',
    SUMMARY,
    'share',
    'sep',
  ),
  Contrast(
    'C5',
    'Global beats Prompt-Tuning, all tuned, on real language',
    SUMMARY,
    'global',
    'prompt_tuning',
  ),
  Contrast('C6', 'Global beats Adapter on real language', OURS, 'global', 'adapter'),
  Contrast(
    'C7', 'Global beats HyperFormer++ on real language', SUMMARY, 'global', 'hyperformer'
  ),
  Contrast(
    'C8',
    'Prompts in the encoder beat those in the decoder on real language',
    OURS,
    'global',
    'global_decoder',
  ),
  Contrast(
    'C9',
    'Prompts in both beat those in the encoder on real language',
    OURS,
    'global_both',
    'global',
  ),
  Contrast(
    'C10', 'A gentle start of Global beats a full one', OURS, 'global_gentle', 'global'
  ),
)

# By number: claim, source and the bound of equivalence.
DEPTH = {
  'B1': ('Attention mass on prompts rises with depth', POSTER, 0.01),
  'B2': ('Attention mass rises more steeply with depth than before tuning', OURS, 0.01),
  'B3': ('Prompts raise the entropy of attention over tokens (nats)', POSTER, 0.05),
  'B4': ('Prompts in the decoder raise that entropy in the encoder', OURS, 0.05),
}

# Stated by a source, and beyond these studies.
UNTESTED = (
  ('SuperGLUE average of 78.9 against 77.2 at Base, 91.3 against 90.2 at XXL', POSTER),
  ('Frozen Prompt-Tuning comes close only at 11B', SUMMARY),
  ('Tuning all parameters beats tuning those of the tasks alone by far', POSTER),
  ('HyperPrompt takes fewer operations and less time than adapters', SUMMARY),
)
