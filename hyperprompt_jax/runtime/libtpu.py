"""The TPU's library where there is no TPU: it compiles there, too, once it is told."""

import os
import pathlib

_GOOGLE = '0x1ae0'  # as PCI vendor
# TPU v2 and v3, v4, v5p, v5e, v6e, 7x: the devices that JAX looks for. Google's network
# cards and disks are others.
_TPUS = ('0x0027', '0x005e', '0x0062', '0x0063', '0x006f', '0x0076')


def has_tpu(devices: pathlib.Path = pathlib.Path('/sys/bus/pci/devices')) -> bool:
  """Whether there is a TPU in this machine.

  Args:
    devices: folder with `vendor` and `device` of each PCI device.
  """
  read = lambda path: path.read_text().strip() if path.exists() else ''
  return any(
    read(device / 'vendor') == _GOOGLE and read(device / 'device') in _TPUS
    for device in devices.glob('*')
  )


def prepare() -> None:
  """Tells the library not to look for its machine, unless there is one.

  It is loaded wherever it is installed, and otherwise writes to standard error which of
  the machine's descriptions it has not found.
  """
  if has_tpu():
    return
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
  os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v4-8')
