"""A run's metric files."""

import json
from collections.abc import Mapping
from typing import Any

from clu import metric_writers
from etils import epath

from hyperprompt_jax.runtime import distributed, trackers
from hyperprompt_jax.runtime.files import write_whole, writing
from hyperprompt_jax.runtime.metrics_file import METRICS_FILE, read_metrics
from hyperprompt_jax.runtime.scalar_writer import ScalarWriter

Scalars = Mapping[str, float]


class JsonlWriter(ScalarWriter):
  """Appends scalars to a file, as one JSON object `{"step": …, name: value}` a line."""

  def __init__(self, path: epath.Path):
    self._path = path

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Appends one line."""
    record = {'step': step, **{name: float(x) for name, x in scalars.items()}}
    with self._path.open('a', encoding='utf-8') as file:
      file.write(json.dumps(record) + '\n')


class Metrics:
  """A run's metrics, in `MODEL_DIR/metrics.jsonl`, for TensorBoard and for a tracker.

  If there are several hosts, the first one writes the metrics, and all read them.

  Args:
    model_dir: names the run's folder.
    restored_step: is the step at which the run resumes. Records of later steps are
      dropped, because the run repeats those steps.
    tracker: names a tracker, as `trackers.TrackerWriter` does; None for none.
    project: is the tracker's project.

  Raises:
    UserError: if the folder cannot be written, or the tracker does not start.
  """

  def __init__(
    self,
    model_dir: str,
    restored_step: int,
    tracker: str | None = None,
    project: str = '',
  ):
    self._path = epath.Path(model_dir) / METRICS_FILE
    writers: list[metric_writers.MetricWriter] = []
    if distributed.is_first():
      with writing(model_dir):
        self._drop_after(restored_step)
        writers = [JsonlWriter(self._path), metric_writers.SummaryWriter(model_dir)]
        if tracker is not None:
          writers.append(trackers.TrackerWriter(tracker, project, model_dir))
    distributed.wait_for_all('metrics of later steps are dropped')
    self._writer = metric_writers.MultiWriter(writers)

  def write(self, step: int, kind: str, scalars: Scalars) -> None:
    """Writes `kind/name` for each name."""
    named = {f'{kind}/{name}': value for name, value in scalars.items()}
    with writing(self._path.parent):
      self._writer.write_scalars(step, named)
      self._writer.flush()

  def read(self) -> list[dict[str, float]]:
    """Returns all records so far, without a last line that a kill has cut short."""
    return read_metrics(self._path)

  def close(self) -> None:
    """Closes the files."""
    with writing(self._path.parent):
      self._writer.close()

  def _drop_after(self, step: int) -> None:
    kept = [record for record in self.read() if record['step'] <= step]
    write_whole(self._path, ''.join(json.dumps(record) + '\n' for record in kept))
