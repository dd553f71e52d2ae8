"""Prints the JobSet that trains on a TPU slice of GKE, as JSON, which kubectl reads too.

Only `launch/gke.sh` runs this. Whatever comes from the user is a JSON string by itself: no
shell and no YAML parser reads it.
"""

import argparse
import json
import sys
from collections.abc import Sequence

# Kubernetes puts a ConfigMap's files and the virtual environment there.
WHEEL = '/hyperprompt/wheel'
ENVIRONMENT = '/hyperprompt/venv'
INSTALL = (
  f'python3 -m venv {ENVIRONMENT} && {ENVIRONMENT}/bin/pip install --quiet '
  f'--constraint {WHEEL}/constraints.txt "$(echo {WHEEL}/hyperprompt_jax-*.whl)[tpu]"'
)
# A mistake of the user's, which would happen again: cli.py.
MISTAKE_STATUS = 2
# Preemptions are counted, too; there is no reason to give up after a few.
MAX_RESTARTS = 1000
# On SIGTERM a checkpoint is saved. A spot host is gone sooner.
GRACE_SECONDS = 600


def literal(text: str) -> str:
  """Protects `$(NAME)`, which Kubernetes would replace in arguments and environment."""
  return text.replace('$', '$$')


def jobset(
  flags: argparse.Namespace, environment: Sequence[str], arguments: Sequence[str]
) -> dict:
  """The JobSet; `arguments` are those of `hyperprompt train`."""
  labels = {'hyperprompt': flags.name}
  selector = {
    'cloud.google.com/gke-nodepool': flags.name,
    'cloud.google.com/gke-tpu-accelerator': flags.accelerator,
    'cloud.google.com/gke-tpu-topology': flags.topology,
  }
  tolerations = []
  if flags.spot:
    spot = 'cloud.google.com/gke-spot'
    selector[spot] = 'true'
    tolerations = [
      {'key': spot, 'operator': 'Equal', 'value': 'true', 'effect': 'NoSchedule'}
    ]
  variables = dict(entry.split('=', 1) for entry in ['PYTHONUNBUFFERED=1', *environment])
  mounts = [
    {'name': 'wheel', 'mountPath': WHEEL},
    {'name': 'venv', 'mountPath': ENVIRONMENT},
  ]
  pod = {
    'restartPolicy': 'Never',
    'terminationGracePeriodSeconds': GRACE_SECONDS,
    'nodeSelector': selector,
    'tolerations': tolerations,
    'initContainers': [
      # Apart from training: pip, too, ends with 2 at times, and that is worth a restart.
      {
        'name': 'install',
        'image': flags.image,
        'command': ['sh', '-c', literal(INSTALL)],
        'volumeMounts': mounts,
      }
    ],
    'containers': [
      {
        'name': 'hyperprompt',
        'image': flags.image,
        'command': [f'{ENVIRONMENT}/bin/hyperprompt', 'train'],
        'args': [literal(argument) for argument in arguments],
        'env': [{'name': k, 'value': literal(v)} for k, v in variables.items()],
        'resources': {'limits': {'google.com/tpu': flags.chips_per_host}},
        'volumeMounts': mounts,
      }
    ],
    'volumes': [
      {'name': 'wheel', 'configMap': {'name': flags.name}},
      {'name': 'venv', 'emptyDir': {}},
    ],
  }
  job = {
    # Training needs all hosts: where one fails, the JobSet starts all of them again. GKE
    # tells the hosts of an indexed Job who they are.
    'completionMode': 'Indexed',
    'completions': flags.hosts,
    'parallelism': flags.hosts,
    'backoffLimit': 0,
    'podFailurePolicy': {
      'rules': [
        {
          'action': 'FailJob',
          'onExitCodes': {
            'containerName': 'hyperprompt',
            'operator': 'In',
            'values': [MISTAKE_STATUS],
          },
        }
      ]
    },
    'template': {'metadata': {'labels': labels}, 'spec': pod},
  }
  return {
    'apiVersion': 'jobset.x-k8s.io/v1alpha2',
    'kind': 'JobSet',
    'metadata': {'name': flags.name, 'labels': labels},
    'spec': {
      'failurePolicy': {
        'maxRestarts': MAX_RESTARTS,
        'rules': [
          {
            'name': 'mistake',
            'action': 'FailJobSet',
            'onJobFailureReasons': ['PodFailurePolicy'],
          }
        ],
      },
      'replicatedJobs': [{'name': 'slice', 'replicas': 1, 'template': {'spec': job}}],
    },
  }


def main() -> None:
  """Reads flags, `--` and the arguments of `hyperprompt train`; prints the object.

  `NAME=VALUE` for training come on standard input, each ended by a zero byte: other users
  of the machine see the arguments of a program.
  """
  parser = argparse.ArgumentParser(description=__doc__)
  for name in ('name', 'accelerator', 'topology', 'image'):
    parser.add_argument(f'--{name}', required=True)
  for name in ('hosts', 'chips_per_host'):
    parser.add_argument(f'--{name}', required=True, type=int)
  parser.add_argument('--spot', action='store_true')
  end = sys.argv.index('--')
  flags = parser.parse_args(sys.argv[1:end])
  environment = [entry for entry in sys.stdin.read().split('\0') if entry]
  print(json.dumps(jobset(flags, environment, sys.argv[end + 1 :]), indent=2))


if __name__ == '__main__':
  main()
