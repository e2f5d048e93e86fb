"""The job's state machine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmaev_spec.state import TRANSITIONS, JobState, TransitionError, advance

TERMINAL = {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}
states = st.sampled_from(JobState)


@given(current=states, target=states)
def test_advance_is_the_table(current: JobState, target: JobState) -> None:
    if target in TRANSITIONS[current]:
        assert advance(current, target) is target
    else:
        with pytest.raises(TransitionError, match=f"a {current} job cannot become {target}"):
            advance(current, target)


@given(wishes=st.lists(states, max_size=40))
def test_a_final_state_never_changes(wishes: list[JobState]) -> None:
    state = JobState.WAITING
    final: JobState | None = None
    for wish in wishes:
        try:
            state = advance(state, wish)
        except TransitionError:
            continue
        assert final is None
        if state.terminal:
            final = state


def test_the_final_states_are_the_designed_ones() -> None:
    assert {state for state in JobState if state.terminal} == TERMINAL
    assert TRANSITIONS.keys() == set(JobState)


@pytest.mark.parametrize("state", sorted(set(JobState) - TERMINAL))
def test_every_state_can_end_and_be_reached(state: JobState) -> None:
    reached, frontier = {JobState.WAITING}, [JobState.WAITING]
    while frontier:
        fresh = TRANSITIONS[frontier.pop()] - reached
        reached |= fresh
        frontier += fresh
    assert state in reached
    assert reachable_end(state)


def reachable_end(state: JobState) -> bool:
    seen: set[JobState] = set()
    frontier = [state]
    while frontier:
        current = frontier.pop()
        seen.add(current)
        frontier += TRANSITIONS[current] - seen
    return bool(seen & TERMINAL)


def test_nothing_stays_where_it_is() -> None:
    assert not any(state in targets for state, targets in TRANSITIONS.items())


def test_the_error_lists_what_is_possible() -> None:
    with pytest.raises(TransitionError, match=r"possible: cancelled, queued, waiting"):
        advance(JobState.PAUSED, JobState.RUNNING)
    with pytest.raises(TransitionError, match="nothing, the state is final"):
        advance(JobState.FAILED, JobState.RUNNING)
