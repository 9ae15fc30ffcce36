from __future__ import annotations

from types import SimpleNamespace

from short import claims


def task(shift: str, saved: float, better: bool, over_random: tuple[float, float]) -> SimpleNamespace:
    gain = SimpleNamespace(ci95=over_random)
    return SimpleNamespace(
        shift=shift,
        no_claim=None,
        chosen=SimpleNamespace(macs_saved_fraction=saved),
        gain_over_full=SimpleNamespace(significant=better),
        controls={"random_encoder": SimpleNamespace(gain=gain)},
    )


def test_claims_count_what_the_run_shows():
    tasks = {
        "known": task("id", 0.5, True, (0.1, 0.2)),
        "early": task("both", 0.9, True, (-0.1, 0.2)),
        "deep": task("domain", 0.0, False, (0.1, 0.3)),
    }
    saving, unseen, depth, pretraining = claims(SimpleNamespace(tasks=tasks))
    assert "90% (early)" in saving
    assert "on 1 of 2 (early)" in unseen  # known is not unseen
    assert "ID tasks need 50% of the MACs, OOD tasks 55%" in depth
    assert "on 2 of 3" in pretraining
    assert "(known, deep)" in pretraining


def test_controls_that_did_not_run_are_not_counted():
    tasks = {"known": task("id", 0.0, False, (0, 0)), "other": task("both", 0.0, False, (0, 0))}
    for one in tasks.values():
        one.controls = {}
    assert "on 0 of 2 tasks against random weights (none)" in claims(SimpleNamespace(tasks=tasks))[3]


def test_a_task_for_no_claim_is_left_out_and_named():
    tasks = {"known": task("id", 0.5, False, (0.1, 0.2)), "easy": task("both", 0.99, True, (0.1, 0.2))}
    tasks["easy"].no_claim = "random filters solve it"
    found = claims(SimpleNamespace(tasks=tasks | {"deep": task("both", 0.0, False, (0, 0))}))
    assert "50% (known)" in found[0]
    assert "on 0 of 1 (none)" in found[1]
    assert found[-1] == "Not counted: easy (random filters solve it)."
