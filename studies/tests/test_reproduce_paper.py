"""The reproduction of the paper: its arms, its plan, its gate and its resume."""

import pathlib
import subprocess

import pytest

from hyperprompt_jax.configuration import gin_files
from hyperprompt_jax.errors import UserError
from studies import reproduce_paper
from studies.reproduce_paper import Arm, Campaign


@pytest.fixture
def campaign(tmp_path):
  return Campaign(tmp_path, 'tiny', reproduce_paper.REHEARSAL, tolerance=1.0)


def test_every_method_is_trained_with_every_seed():
  planned = reproduce_paper.arms(2)
  assert planned[0] == Arm('mtl', '', 0)
  assert len(planned) == len({arm.name for arm in planned}) == 2 * 13
  files = (gin_files.gin_directory() / 'methods').glob('*.gin')
  assert {arm.method for arm in planned} == {file.stem for file in files} - {'single_task'}


@pytest.mark.parametrize('stacks', ['encoder', 'decoder', 'both'])
def test_stacks_have_prompt_lengths_of_their_own(campaign, stacks):
  arm = Arm('hyperprompt_share', stacks, 0)
  gin_files.parse(
    campaign.files(arm), ["MODEL_DIR='unused'", *arm.bindings(), *campaign.bindings]
  )
  method = gin_files.parameter('model.Model.method').scoped_configurable_fn()
  assert method._lengths() == {
    stack: length
    for stack, length in reproduce_paper.LENGTHS.items()
    if stacks in (stack, 'both')
  }


def test_chip_hours_follow_the_steps_and_the_rate(campaign):
  arm = Arm('mtl', '', 0)
  hours = reproduce_paper.chip_hours(campaign, arm, 'v4', 0.5)
  longer = Campaign(campaign.output, 'tiny', (*campaign.bindings, 'TRAIN_STEPS=6'), 1.0)
  assert hours > 0
  assert reproduce_paper.chip_hours(longer, arm, 'v4', 0.25) == pytest.approx(6 * hours)


@pytest.mark.parametrize(('average', 'passes'), [(76.5, True), (70.0, False)])
def test_nothing_is_spent_before_the_calibration(campaign, monkeypatch, average, passes):
  monkeypatch.setattr(Campaign, 'average', lambda self, arm: average)
  if passes:
    campaign.check_calibration(Arm('mtl', '', 0))
    return
  with pytest.raises(UserError, match=r'mtl-seed0 has 70\.0, more than 1 from 77\.2'):
    campaign.check_calibration(Arm('mtl', '', 0))


def test_runs_that_are_done_are_not_done_again(campaign, monkeypatch):
  commands = []

  def train(command, check):
    commands.append(command)
    folder = campaign.output / 'mtl-seed1'
    folder.mkdir(exist_ok=True)
    return subprocess.CompletedProcess(command, returncode=2 if len(commands) == 1 else 0)

  monkeypatch.setattr(subprocess, 'run', train)
  arm = Arm('mtl', '', 1)
  with pytest.raises(UserError, match='mtl-seed1 ended with status 2'):
    campaign.run(arm)
  campaign.run(arm)
  campaign.run(arm)
  assert len(commands) == 2
  assert f"--gin.MODEL_DIR='{pathlib.Path(campaign.output, 'mtl-seed1')}'" in commands[0]


def test_a_checkpoint_is_asked_for(tmp_path):
  with pytest.raises(UserError, match='--checkpoint'):
    reproduce_paper.main([f'--output={tmp_path}'])
