"""`hyperprompt plan`: the needs of a step on a TPU slice, by the TPU's own compiler.

The step is compiled ahead of time from shapes alone, on any machine: no TPU is needed, no
weights are made.
"""

import dataclasses
import functools
import re
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import optax

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.methods import Method
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.config import Config
from hyperprompt_jax.nn.int8 import FLOAT32
from hyperprompt_jax.partitioning import Partitioner
from hyperprompt_jax.planning import cost, hlo, steps, sweep
from hyperprompt_jax.planning.plan import Plan
from hyperprompt_jax.planning.steps import Batch
from hyperprompt_jax.planning.sweep import Mesh
from hyperprompt_jax.planning.topology import Slice
from hyperprompt_jax.training.settings import OptimisationSettings
from hyperprompt_jax.training.train_step import abstract_state
from hyperprompt_jax.training.trainable import TrainableParameters, resolve

# A slice is given up after this many meshes, those that need least memory first.
_ATTEMPTS = 2


@dataclasses.dataclass(frozen=True)
class Planner:
  """Plans steps of one network; gin makes it.

  Attributes:
    config: configures the network.
    method: is the method of task-conditioning.
    optimizer: is the optimizer of the training step.
    optimisation: chooses the trained parameters and the number of microbatches.
    weights: is the dtype of kernels in decoding, 'float32' or 'int8'.
  """

  config: Config
  method: Method
  optimizer: optax.GradientTransformation
  optimisation: OptimisationSettings
  weights: str = FLOAT32

  @property
  def num_microbatches(self) -> int:
    """The number of parts in which a batch is processed."""
    return self.optimisation.num_microbatches

  def trainable(self, model: Model) -> TrainableParameters:
    """The parameters of a network that the step trains."""
    return resolve(model.param_axes(), self.optimisation.trainable)

  def check(self, num_tasks: int, batch: Batch) -> None:
    """Checks the settings that do not depend on a slice.

    Raises:
      UserError: if nothing is to be trained, or microbatches do not divide the batch.
    """
    self.trainable(self.model(num_tasks))
    if batch.size % self.num_microbatches:
      raise UserError(
        f'--batch_size={batch.size} is not divided by '
        f'NUM_MICROBATCHES={self.num_microbatches}'
      )

  def model(self, num_tasks: int) -> Model:
    """The network for this number of tasks."""
    return Model(
      self.config, self.method, tuple(f'task_{number}' for number in range(num_tasks))
    )

  def partitioner(self, where: Slice, mesh: Mesh, batch: Batch) -> Partitioner:
    """The devices of a slice as a mesh.

    Raises:
      UserError: if there is no such slice, or the mesh does not divide what is laid out.
    """
    if where.num_devices % (mesh.num_partitions * mesh.fsdp):
      kind = 'chips' if where.chip.devices == 1 else 'devices'
      raise UserError(
        f'{where.name} has {where.num_devices} {kind}, which num_partitions='
        f'{mesh.num_partitions} times fsdp={mesh.fsdp} does not divide'
      )
    partitioner = Partitioner(mesh.num_partitions, mesh.fsdp, devices=where.devices())
    partitioner.check(
      batch_size=batch.size // self.num_microbatches,
      emb_dim=self.config.emb_dim,
      num_heads=self.config.num_heads,
      mlp_dim=self.config.mlp_dim,
      vocab_size=self.config.vocab_size,
    )
    return partitioner

  def held_bytes(
    self, model: Model, partitioner: Partitioner, step: str
  ) -> tuple[int, int]:
    """Returns the bytes of parameters and optimizer state that each chip always holds."""
    if step == steps.DECODE:
      params = steps.decoding_params(model, partitioner, self.weights)
      return steps.bytes_per_chip(params), 0
    state = abstract_state(model, self.optimizer, partitioner, self.trainable(model))
    return steps.bytes_per_chip(state.params), steps.bytes_per_chip(state.opt_state)

  def plan(
    self,
    where: Slice,
    mesh: Mesh,
    batch: Batch,
    step: str = steps.TRAIN,
    num_tasks: int = 8,
    progress: Callable[[str], None] = lambda stage: None,
  ) -> Plan:
    """Compiles a step for a slice, and adds up its needs.

    Args:
      where: is the slice; several like it divide the batch among them.
      mesh: arranges the chips of the slice.
      batch: gives the shape of a batch.
      step: is 'train' or 'decode'.
      num_tasks: is the number of conditioned tasks, t.
      progress: is called with the name of each stage.

    Raises:
      UserError: if there is no such slice, or slices or the mesh do not divide what is laid
        out.
    """
    self.check(num_tasks, batch)
    if batch.size % where.count:
      raise UserError(f'--batch_size={batch.size} is not divided by --slices={where.count}')
    part = dataclasses.replace(batch, size=batch.size // where.count)
    plan = self._plan_slice(where, mesh, part, step, num_tasks, progress)
    if where.count > 1:
      plan = self._over_slices(plan, where, mesh, part, num_tasks)
    if step == steps.DECODE and plan.step_seconds:
      tokens = batch.size * batch.targets / plan.step_seconds
      plan = dataclasses.replace(plan, tokens_per_second=tokens)
    return plan

  def _over_slices(
    self, plan: Plan, where: Slice, mesh: Mesh, part: Batch, num_tasks: int
  ) -> Plan:
    """Adds the network between slices, each of which has a part of the batch."""
    gradient_bytes = 0
    if plan.step == steps.TRAIN:
      model, partitioner = self.model(num_tasks), self.partitioner(where, mesh, part)
      trainable = self.trainable(model)
      state = abstract_state(model, self.optimizer, partitioner, trainable)
      gradient_bytes = steps.bytes_per_chip(trainable.split(state.params)[0])
    return plan.over_slices(where, gradient_bytes)

  def _plan_slice(
    self,
    where: Slice,
    mesh: Mesh,
    batch: Batch,
    step: str,
    num_tasks: int,
    progress: Callable[[str], None],
  ) -> Plan:
    """Plans one slice and its part of the batch, as `plan` does all."""
    model = self.model(num_tasks)
    partitioner = self.partitioner(where, mesh, batch)
    params_bytes, optimizer_bytes = self.held_bytes(model, partitioner, step)
    plan = Plan(
      topology=where.name,
      mesh=dict(partitioner.mesh.shape),
      step=step,
      hbm_bytes=where.chip.hbm_bytes,
      devices_per_chip=where.chip.devices,
      params_bytes=params_bytes,
      optimizer_bytes=optimizer_bytes,
    )
    start = time.monotonic()
    progress('tracing')
    lowered, model_flops = self._lower(model, partitioner, batch, step)
    progress('compiling')
    compiled = _compile(lowered)
    duration = time.monotonic() - start
    if isinstance(compiled, int):
      return dataclasses.replace(plan, peak_bytes=compiled, compile_seconds=duration)
    progress('reading the program')
    analysis = cost.analyse(hlo.parse(compiled.as_text()))
    chip_flops = model_flops and model_flops / where.num_devices
    plan = dataclasses.replace(
      plan,
      fits=True,
      peak_bytes=compiled.memory_analysis().peak_memory_in_bytes,
      compile_seconds=duration,
      cost=analysis,
      carried_whole=steps.carried_whole(model, partitioner, analysis.carried),
      **plan.seconds(where.chip, analysis, model.config.head_dim, chip_flops),
    )
    total = self.optimisation.total_steps
    if step == steps.DECODE or total is None or plan.step_seconds is None:
      return plan
    hours = where.num_chips * total * plan.step_seconds / 3600
    return dataclasses.replace(plan, chip_hours=hours)

  def _lower(
    self, model: Model, partitioner: Partitioner, batch: Batch, step: str
  ) -> tuple[Any, int | None]:
    """Lowers a step; a training step comes with the model's own FLOP over all chips."""
    if step == steps.DECODE:
      return steps.lower_decode(model, partitioner, batch, self.weights), None
    lowered = steps.lower_train(
      model,
      self.optimizer,
      partitioner,
      batch,
      num_microbatches=self.num_microbatches,
      trainable=self.trainable(model),
    )
    return lowered, steps.train_flops(model, batch, self.trainable(model))

  def sweep(
    self,
    topology: str | None,
    batch: Batch,
    step: str = steps.TRAIN,
    num_tasks: int = 8,
    progress: Callable[[str], None] = lambda stage: None,
    done: Callable[[Plan], None] = lambda plan: None,
  ) -> list[Plan]:
    """Finds the smallest slice that a step fits on, and the meshes that do there.

    Args:
      topology: names a generation, or a slice whose meshes are compared; None stands for
        all slices.
      batch: gives the shape of a batch.
      step: is 'train' or 'decode'.
      num_tasks: is the number of conditioned tasks, t.
      progress: is called with the name of each stage.
      done: is called with each plan.

    Returns:
      Plans for the meshes that fit, those of the shortest estimate first.

    Raises:
      UserError: if there is no such slice, or it fits on none.
    """
    self.check(num_tasks, batch)
    model, config = self.model(num_tasks), self.config
    divided = (config.num_heads, config.mlp_dim, config.vocab_size)
    rows = batch.size // self.num_microbatches
    tried = 0
    for where in sweep.slices(topology):
      progress(f'{where.name}: looking for meshes')
      held = {
        mesh: sum(self.held_bytes(model, self.partitioner(where, mesh, batch), step))
        for mesh in sweep.meshes(where, rows, config.emb_dim, divided)
      }
      plans: list[Plan] = []
      for number, mesh in enumerate(sweep.order(held, where.chip.hbm_bytes)):
        if number >= _ATTEMPTS and not any(plan.fits for plan in plans):
          break
        at = f'{where.name}, model {mesh.num_partitions}, fsdp {mesh.fsdp}'
        say = functools.partial(say_where, progress, at)
        plans.append(self.plan(where, mesh, batch, step, num_tasks, say))
        done(plans[-1])
      tried += len(plans)
      if fitting := [plan for plan in plans if plan.fits]:
        return sorted(fitting, key=lambda plan: plan.step_seconds or 0)
    raise UserError(
      f'--sweep: nothing fits, of {tried} meshes that were compiled; use a smaller batch, '
      'NUM_MICROBATCHES, or REMAT_POLICY="full"'
    )


def say_where(progress: Callable[[str], None], where: str, stage: str) -> None:
  """Reports a stage of planning with the name of the slice."""
  progress(f'{where}: {stage}')


def _compile(lowered: Any) -> Any:
  """Compiles a program; if it does not fit, returns the bytes that it needs."""
  try:
    with warnings.catch_warnings():
      # JAX's cache cannot read back programs of machines that are not here.
      warnings.filterwarnings('ignore', 'Error reading persistent compilation cache')
      return lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    needed = _needed_bytes(str(error))
    if needed is None:
      raise
    return needed


def _needed_bytes(message: str) -> int | None:
  """Reads the memory that a program needs from the compiler's error, if it is in it."""
  match = re.search(
    r'Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm'
    r'|HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds',
    message,
  )
  if match is None:
    return None
  number, unit = match[1] or match[3], match[2] or match[4]
  return int(float(number) * 1024 ** ' KMGT'.index(unit or ' '))


def added_share(plan: Plan, without: Plan) -> dict[str, float]:
  """Returns the share that a method adds to a plan of `mtl`, of each quantity."""
  assert plan.cost and without.cost
  return {
    'flops': plan.cost.flops / without.cost.flops - 1,
    'hbm_bytes': plan.cost.hbm_bytes / without.cost.hbm_bytes - 1,
    'peak_bytes': plan.peak_bytes / without.peak_bytes - 1,
  }
