"""The TPU's library, which also compiles on a machine without a TPU."""

import os
import pathlib

_GOOGLE = '0x1ae0'  # PCI vendor
# The PCI devices that JAX looks for: TPU v2 and v3, v4, v5p, v5e, v6e, 7x. Google's network
# cards and disks have other numbers.
_TPUS = ('0x0027', '0x005e', '0x0062', '0x0063', '0x006f', '0x0076')


def has_tpu(devices: pathlib.Path = pathlib.Path('/sys/bus/pci/devices')) -> bool:
  """Returns whether this machine has a TPU.

  Args:
    devices: is the folder that has the files `vendor` and `device` of each PCI device.
  """
  read = lambda path: path.read_text().strip() if path.exists() else ''
  return any(
    read(device / 'vendor') == _GOOGLE and read(device / 'device') in _TPUS
    for device in devices.glob('*')
  )


def prepare() -> None:
  """Keeps the library from looking for a TPU on a machine that has none.

  JAX loads the library wherever it is installed. Without these settings it would report on
  standard error that it cannot find a description of the TPU.
  """
  if has_tpu():
    return
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
  os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v4-8')
