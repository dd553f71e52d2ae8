"""`python -m hyperprompt_jax VERB`: the `hyperprompt` command."""

import sys

from hyperprompt_jax.cli import main

sys.exit(main())
