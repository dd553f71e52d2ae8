"""The part of clu's interface of metric writers that a run uses: scalars."""

from clu import metric_writers


class ScalarWriter(metric_writers.MetricWriter):
  """The base of writers that take scalars alone, and buffer nothing."""

  def flush(self) -> None:
    """Does nothing: nothing is buffered."""

  def close(self) -> None:
    """Does nothing: nothing is kept open."""

  def _unsupported(self, *args, **kwargs) -> None:
    raise TypeError(f'{type(self).__name__} takes scalars only')

  write_summaries = write_images = write_videos = write_audios = _unsupported
  write_texts = write_histograms = write_pointcloud = write_hparams = _unsupported
