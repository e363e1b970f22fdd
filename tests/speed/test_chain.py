"""What a hop costs per token and whether it pays: by hand, against the two-hop formulas, and against events."""

import pytest

from paceline.common.errors import InvalidRequest
from paceline.common.speed.chain import Chain, ChainHop, worth_of
from paceline.common.speed.costs import Costs
from paceline.common.speed.formulas import stream_bound
from paceline.common.speed.stream import predict_stream
from paceline.common.speed.ways import best_stream, filled_costs, predict_ways
from paceline.simulation.chain_events import simulate_chain

CLOUD = ChainHop("cloud", 0.1, 0.03, 0.0002, {"metro": 0.92, "phone": 0.7})
METRO = ChainHop("metro", 0.005, 0.012, 0.0001, {"phone": 0.8})
CHAIN = Chain("phone", 0.01, (METRO, CLOUD))


def test_the_sum_by_hand() -> None:
    """Each hop's contradictions times the journey through all hops below it."""
    metro, cloud = CHAIN.terms

    assert metro.contradictions == pytest.approx(0.2)
    assert metro.journey_s == pytest.approx(0.005 + 0.0121)
    assert cloud.contradictions == pytest.approx(0.08)
    assert cloud.journey_s == pytest.approx(0.005 + 0.0121 + 0.1 + 0.0302)
    assert CHAIN.seconds_per_token == pytest.approx(0.01 + 0.2 * 0.0171 + 0.08 * 0.1473)


def test_a_chain_of_two_is_the_stream_s_bound() -> None:
    """Without a hop between the sum is the formula for two."""
    chain = Chain("phone", 0.01, (ChainHop("cloud", 0.05, 0.03, 0.0002, {"phone": 0.8}),))

    assert chain.as_costs == Costs(0.01, 0.03, 0.0002, 0.05, 0.8)
    assert 1 / chain.seconds_per_token == pytest.approx(stream_bound(chain.as_costs))


def test_everything_below_the_last_hop_is_one_drafter() -> None:
    """The bound of the pair that `as_costs` gives is the bound of the chain."""
    assert stream_bound(CHAIN.as_costs) == pytest.approx(1 / CHAIN.seconds_per_token)


def test_without_a_hop_its_links_add_up() -> None:
    """The hop above is as far away as both links, and its acceptance of the hop below counts."""
    without = CHAIN.without(0)

    assert [hop.name for hop in without.hops] == ["cloud"]
    assert without.hops[0].round_trip_s == pytest.approx(0.105)
    assert without.acceptance_of(0) == 0.7


def test_an_acceptance_nobody_gave_is_the_product_of_the_steps() -> None:
    """It is a guess on the safe side: tokens that stand at every step stand."""
    chain = Chain("phone", 0.01, (METRO, ChainHop("cloud", 0.1, 0.03, 0.0, {"metro": 0.9})))

    assert chain.without(0).acceptance_of(0) == pytest.approx(0.72)


def test_a_hop_pays_exactly_while_it_saves_more_than_it_costs() -> None:
    """The far link at which both sums are equal divides the two answers."""

    def chain(far_s: float) -> Chain:
        far = ChainHop("cloud", far_s, 0.03, 0.0, {"metro": 0.9, "phone": 0.7})
        return Chain("phone", 0.01, (ChainHop("metro", 0.02, 0.02, 0.0, {"phone": 0.75}), far))

    # .25 (.02 + .02) + .1 (.04 + x + .03) = .3 (.02 + x + .03)
    even_s = (0.25 * 0.04 + 0.1 * 0.07 - 0.3 * 0.05) / 0.2
    assert not worth_of(chain(even_s * 0.99), 0).pays
    assert worth_of(chain(even_s * 1.01), 0).pays


def test_the_last_hop_is_never_left_out() -> None:
    """It is the target."""
    with pytest.raises(InvalidRequest, match="last hop"):
        CHAIN.without(1)


def test_a_chain_that_lacks_a_figure_says_which() -> None:
    """Both hops are named."""
    with pytest.raises(InvalidRequest, match="what phone writes stands under metro"):
        Chain("phone", 0.01, (ChainHop("metro", 0.1, 0.03, 0.0), CLOUD)).acceptance_of(0)
    with pytest.raises(InvalidRequest, match="needs a hop"):
        Chain("phone", 0.01, ())


SHORT_S = 0.0001
"""A pass so short that none waits for another."""


@pytest.mark.parametrize(
    "chain",
    [
        Chain("a", 0.01, (ChainHop("z", 0.1, SHORT_S, 0.0, {"a": 0.7}),)),
        Chain(
            "a",
            0.01,
            (ChainHop("m", 0.005, SHORT_S, 0.0, {"a": 0.8}), ChainHop("z", 0.1, SHORT_S, 0.0, {"m": 0.9})),
        ),
        Chain(
            "a",
            0.01,
            (
                ChainHop("l", 0.002, SHORT_S, 0.0, {"a": 0.8}),
                ChainHop("m", 0.02, SHORT_S, 0.0, {"l": 0.9}),
                ChainHop("z", 0.08, SHORT_S, 0.0, {"m": 0.95}),
            ),
        ),
    ],
    ids=lambda chain: f"{len(chain.hops) + 1} hops",
)
def test_the_sum_is_what_events_come_to(chain: Chain) -> None:
    """With passes that take no time a simulated chain of any depth is within 3 % of the sum."""
    simulated = simulate_chain(chain, 20_000, seed=1)

    assert simulated.seconds_per_token == pytest.approx(chain.seconds_per_token, rel=0.03)
    last = chain.hops[-1].name
    assert simulated.contradictions[last] == pytest.approx(
        1 - chain.acceptance_of(len(chain.hops) - 1), rel=0.06
    )


def test_the_verdict_is_what_events_say() -> None:
    """Over a grid of chains in which the simulated speeds differ by a tenth or more, the sums pick the faster."""
    right, wrong = {True: 0, False: 0}, 0
    for far_s in (0.01, 0.1):
        for near_s in (0.005, 0.05):
            for middle_s in (0.005, 0.03):
                for own, direct in ((0.95, 0.7), (0.9, 0.85), (0.75, 0.7)):
                    middle = ChainHop("m", near_s, middle_s, 0.0, {"a": 0.75})
                    target = ChainHop("z", far_s, 0.02, 0.0, {"m": own, "a": direct})
                    chain = Chain("a", 0.01, (middle, target))
                    with_s = simulate_chain(chain, 3_000).seconds_per_token
                    without_s = simulate_chain(chain.without(0), 3_000).seconds_per_token
                    if abs(with_s - without_s) < 0.1 * max(with_s, without_s):
                        continue
                    pays = with_s < without_s
                    if worth_of(chain, 0).pays == pays:
                        right[pays] += 1
                    else:
                        wrong += 1

    assert min(right.values()) >= 5
    assert wrong == 0


def test_ways_are_at_their_best() -> None:
    """No block and window a stream may take beats the one that is reported; the device alone has its own speed."""
    costs = CHAIN.as_costs
    for fill in (False, True):
        _, best = best_stream(costs, fill=fill)
        assert best.tokens_per_s >= max(
            predict_stream(costs, block, block * window, fill=fill).tokens_per_s
            for block in (1, 4, 16)
            for window in (1, 4, 16)
        )
    ways = {way.name: way for way in predict_ways(costs, 0.001, CHAIN.draft_s)}
    assert ways["local"].tokens_per_s == pytest.approx(100)
    assert ways["cloud"].tokens_per_s == pytest.approx(1 / 0.0302)


def test_a_relay_that_fills_is_a_drafter_as_fast_as_it_streams() -> None:
    """Only the last link lies between it and the target; without a relay nothing changes."""
    pair = CHAIN.without(0)
    assert filled_costs(pair) == pair.as_costs
    costs = filled_costs(CHAIN)
    below = Chain(CHAIN.device, CHAIN.draft_s, CHAIN.hops[:1]).as_costs
    assert costs.round_trip_s == CHAIN.hops[1].round_trip_s
    assert 1 / costs.draft_s == best_stream(below, fill=True)[1].tokens_per_s
    assert costs.draft_s < CHAIN.as_costs.draft_s + CHAIN.hops[0].pass_s
