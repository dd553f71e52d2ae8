"""A test of `make test` holds the promise of each slow one, too."""

from tests import slow


def test_a_quick_test_holds_the_promise_of_each_slow_one(request):
  quick, held_by = set(), {}
  for item in request.config.stash[slow.COLLECTED]:
    mark = item.get_closest_marker('slow')
    own = f'{item.path}::{item.function.__name__}'
    if mark is None:
      quick |= {own, item.function.__name__}
    else:
      held_by[own] = mark.kwargs.get('held_by', own)
  # A slow test names the quick one, unless that is the same test with another parameter.
  assert {name: other for name, other in held_by.items() if other not in quick} == {}
