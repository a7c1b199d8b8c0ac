use super::*;
use crate::model::{Conditions, Hints};

fn endpoint(n: u8, weight: u32) -> Endpoint {
    let addr = SocketAddr::from(([10, 0, 0, n], 80));
    let hints = Hints::default();
    Endpoint { addr, conditions: Conditions::READY, node: None, zone: None, hints, weight, pod: None }
}

fn set(ns: impl IntoIterator<Item = u8>, affinity: Affinity, inherited: &mut Inherited) -> EndpointSet {
    EndpointSet::build(
        ns.into_iter().map(|n| endpoint(n, 1)).collect(),
        Balance::Random,
        &EndpointPolicy::default(),
        affinity,
        inherited,
    )
}

const STICKY: Affinity = Affinity::ClientIp { timeout: Duration::from_secs(10) };

fn client(n: u8, now: u64) -> Client {
    Client { ip: IpAddr::from([192, 0, 2, n]), now: UnixMillis(now) }
}

#[test]
fn every_endpoint_comes_once_whatever_the_order() {
    let mut inherited = Inherited::default();
    for affinity in [Affinity::None, STICKY] {
        let set = set(0..7, affinity, &mut inherited);
        for remember in [false, true] {
            if remember {
                set.chosen(client(1, 0), EndpointIndex(3));
            }
            let mut seen: Vec<usize> = set.candidates(client(1, 1)).map(|i| i.0).collect();
            seen.sort_unstable();
            assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6]);
        }
    }
    assert_eq!(set([], STICKY, &mut inherited).candidates(client(1, 0)).next(), None);
    assert_eq!(set([], Affinity::None, &mut inherited).candidates(client(1, 0)).next(), None);
}

#[test]
fn an_address_is_found_among_few_and_among_many() {
    for count in [1, FEW, FEW + 1, 200] {
        let set = set(0..u8::try_from(count).unwrap(), Affinity::None, &mut Inherited::default());
        let all = set.endpoints().iter().map(|endpoint| set.position(endpoint.addr));
        assert!(all.eq((0..count).map(|at| Some(EndpointIndex(at)))), "{count}");
        assert_eq!(set.position(endpoint(255, 1).addr), None, "{count}");
    }
}

#[test]
fn affinity_survives_a_rebuild_in_another_order_and_expires_by_the_callers_clock() {
    let mut inherited = Inherited::default();
    let before = set([1, 2, 3], STICKY, &mut inherited);
    before.chosen(client(1, 0), EndpointIndex(1));
    let after = set([3, 9, 2, 1], STICKY, &mut inherited);
    let first = after.candidates(client(1, 9_999)).next().unwrap();
    assert_eq!(after.endpoint(first).addr, before.endpoint(EndpointIndex(1)).addr);
    assert_eq!(after.remembered(client(1, 10_000)), None);
}

#[test]
fn replicas_agree_for_as_long_as_affinity_is_not_meant_to_end_soon() {
    let long = Affinity::ClientIp { timeout: DEFAULT_AFFINITY_TIMEOUT };
    let (a, b) = (set(0..5, long, &mut Inherited::default()), set((0..5).rev(), long, &mut Inherited::default()));
    let choice = |set: &EndpointSet, c| set.endpoint(set.candidates(c).next().unwrap()).addr;
    // One of them hears of a client a day after the other, as it has begun only then.
    let later = |n: u8| client(n, 5 + u64::from(n) * 24 * 3_600_000);
    assert!((0..200).all(|n| choice(&a, client(n, 5)) == choice(&b, later(n))));
}

#[test]
fn two_replicas_agree_and_a_later_epoch_may_differ() {
    let (a, b) = (set(0..5, STICKY, &mut Inherited::default()), set((0..5).rev(), STICKY, &mut Inherited::default()));
    let choice = |set: &EndpointSet, c| set.endpoint(set.candidates(c).next().unwrap()).addr;
    assert!((0..200).all(|n| choice(&a, client(n, 5)) == choice(&b, client(n, 5))));
    assert!((0..20).any(|epoch| choice(&a, client(1, epoch * 10_000)) != choice(&a, client(1, 0))));
}

#[test]
fn in_flight_is_counted_while_the_receipt_lives_and_inherited() {
    let mut inherited = Inherited::default();
    let before = set([1, 2], Affinity::None, &mut inherited);
    let receipt = before.state(EndpointIndex(0)).carry();
    let after = set([2, 1], Affinity::None, &mut inherited);
    assert_eq!(after.state(EndpointIndex(1)).in_flight(), 1);
    drop(receipt);
    assert_eq!(after.state(EndpointIndex(1)).in_flight(), 0);
    assert_eq!(after.state(EndpointIndex(1)).picks(), 1);
}

#[test]
fn weight_0_takes_an_endpoint_out_with_affinity_too() {
    let endpoints = (0..4).map(|n| endpoint(n, u32::from(n % 2))).collect();
    let set =
        EndpointSet::build(endpoints, Balance::Weighted, &EndpointPolicy::default(), STICKY, &mut Inherited::default());
    for n in 0..100 {
        let order: Vec<usize> = set.candidates(client(n, 0)).map(|i| i.0).collect();
        assert!(order.len() == 4 && order[..2].iter().all(|i| i % 2 == 1), "{order:?}");
    }
}

#[test]
fn weighted_and_round_robin_do_what_they_say() {
    let mut inherited = Inherited::default();
    let endpoints: Arc<[Endpoint]> = [endpoint(1, 3), endpoint(2, 0), endpoint(3, 1)].into();
    let set = EndpointSet::build(
        endpoints.clone(),
        Balance::Weighted,
        &EndpointPolicy::default(),
        Affinity::None,
        &mut inherited,
    );
    let mut seen = [0; 3];
    (0..8_000).for_each(|_| seen[set.candidates(client(1, 0)).next().unwrap().0] += 1);
    assert!(seen[1] == 0 && (5_500..6_500).contains(&seen[0]), "{seen:?}");
    let set =
        EndpointSet::build(endpoints, Balance::RoundRobin, &EndpointPolicy::default(), Affinity::None, &mut inherited);
    let seen: Vec<usize> = (0..4).map(|_| set.candidates(client(1, 0)).next().unwrap().0).collect();
    assert_eq!(seen, [0, 1, 2, 0]);
}

/// The whole choice under a policy, from outside.
mod policy {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::{Admission, Ejection, Probe, Question};

    const EVERY_RULE: [Balance; 6] =
        [Balance::Random, Balance::RoundRobin, Balance::LeastInFlight, Balance::Ewma, Balance::Weighted, Balance::Hash];

    fn with_policy(n: u8, balance: Balance, policy: &EndpointPolicy) -> EndpointSet {
        let endpoints = (0..n).map(|n| endpoint(n, 1)).collect();
        EndpointSet::build(endpoints, balance, policy, Affinity::None, &mut Inherited::default())
    }

    fn ejecting(max_failures: u32, max_share: u8) -> EndpointPolicy {
        let ejection = Ejection { max_failures, max_share, ..Ejection::default() };
        EndpointPolicy { ejection: Some(ejection), ..EndpointPolicy::default() }
    }

    fn probing() -> (EndpointPolicy, Probe) {
        let probe = Probe { unhealthy: 1, ..Probe::new(Question::Tcp) };
        (EndpointPolicy { probe: Some(probe.clone().into()), ..EndpointPolicy::default() }, probe)
    }

    fn firsts(set: &EndpointSet, balance: Balance, now: u64, n: u64) -> Vec<usize> {
        let mut seen = vec![0; set.len()];
        (0..n).for_each(|key| seen[set.order(balance, Some(key), UnixMillis(now)).next().unwrap().0] += 1);
        seen
    }

    proptest! {
        /// Whatever fails and succeeds when: never more than the share is out, every endpoint is a candidate, those that are
        /// out come last, and one that is out comes first only if all are.
        #[test]
        fn ejection_never_empties_the_set(
            n in 1..7u8, max_share in 0..=100u8, max_failures in 1..4u32,
            events in prop::collection::vec((0..7usize, any::<bool>(), 0..20_000u64), 1..120),
        ) {
            let set = with_policy(n, Balance::Random, &ejecting(max_failures, max_share));
            let mut now = 1_000_000;
            for (i, good, pause) in events {
                now += pause;
                let (index, now) = (EndpointIndex(i % set.len()), UnixMillis(now));
                if good { set.state(index).succeeded() } else { set.failed(index, now); }
                let out: Vec<usize> = (0..set.len()).filter(|&i| set.is_out(EndpointIndex(i), now)).collect();
                prop_assert!(out.len() * 100 <= set.len() * usize::from(max_share), "{out:?}");
                for balance in EVERY_RULE {
                    let order: Vec<usize> = set.order(balance, Some(7), now).map(|i| i.0).collect();
                    let mut sorted = order.clone();
                    sorted.sort_unstable();
                    prop_assert_eq!(sorted, (0..set.len()).collect::<Vec<_>>());
                    if out.len() < set.len() {
                        let good = order.iter().take_while(|i| !out.contains(i)).count();
                        prop_assert_eq!(good, set.len() - out.len(), "{:?}: {:?} of {:?}", balance, out, order);
                    }
                }
            }
        }

        /// Of all keys, those of one endpoint move when it goes, and the others stay; the share of each is about the same.
        #[test]
        fn a_hash_moves_few_keys(n in 2..12u8, gone in 0..12u8, seed in any::<u64>()) {
            let gone = gone % n;
            let build = |keep: &dyn Fn(u8) -> bool| {
                let endpoints = (0..n).rev().filter(|n| keep(*n)).map(|n| endpoint(n, 1)).collect();
                EndpointSet::build(endpoints, Balance::Hash, &EndpointPolicy::default(), Affinity::None, &mut Inherited::default())
            };
            let (all, rest) = (build(&|_| true), build(&|n| n != gone));
            let choice = |set: &EndpointSet, key| {
                let first = set.order(Balance::Hash, Some(key), UnixMillis(0)).next().unwrap();
                set.endpoint(first).addr
            };
            let keys = 4_000u64;
            let mut moved = 0;
            for key in (0..keys).map(|key| hash_key(&(key ^ seed).to_le_bytes())) {
                let (before, after) = (choice(&all, key), choice(&rest, key));
                prop_assert!(before == after || before == endpoint(gone, 1).addr);
                moved += u64::from(before != after);
            }
            let fair = keys / u64::from(n);
            prop_assert!((fair / 2..fair * 2).contains(&moved), "{moved} of {fair}");
        }

        /// Requests one after the other, each answered as fast as its endpoint is: the faster gets more, and the slower is not
        /// forgotten when it becomes fast.
        #[test]
        fn ewma_prefers_the_faster(slow in 3..50u64, seed in any::<u64>()) {
            fastrand::seed(seed);
            let set = with_policy(2, Balance::Ewma, &EndpointPolicy::default());
            let mut now = 1_000_000;
            let mut run = |latencies: [u64; 2], requests| {
                let mut seen = [0; 2];
                for _ in 0..requests {
                    let chosen = set.order(Balance::Ewma, None, UnixMillis(now)).next().unwrap();
                    let _receipt = set.state(chosen).carry();
                    now += latencies[chosen.0];
                    set.state(chosen).observe(Duration::from_millis(latencies[chosen.0]), UnixMillis(now));
                    seen[chosen.0] += 1;
                }
                seen
            };
            let seen = run([10, 10 * slow], 500);
            prop_assert!(seen[0] > 450, "{seen:?}");
            let seen = run([10, 1], 20_000);
            prop_assert!(seen[1] > seen[0], "{seen:?}");
        }
    }

    #[test]
    fn with_everybody_out_all_are_as_good_as_before() {
        let (policy, probe) = probing();
        for balance in EVERY_RULE {
            let set = with_policy(4, balance, &policy);
            for i in 0..4 {
                set.state(EndpointIndex(i)).set_probe(false, &probe, UnixMillis(0));
            }
            let seen = firsts(&set, balance, 0, 4_000);
            assert!(seen.iter().all(|n| (700..1_300).contains(n)), "{balance:?}: {seen:?}");
        }
    }

    #[test]
    fn who_fails_its_probe_is_left_out_and_the_rest_share_alike() {
        let (policy, probe) = probing();
        for balance in EVERY_RULE {
            let set = with_policy(4, balance, &policy);
            set.state(EndpointIndex(2)).set_probe(false, &probe, UnixMillis(0));
            let seen = firsts(&set, balance, 0, 6_000);
            assert_eq!(seen[2], 0, "{balance:?}");
            assert!([0, 1, 3].iter().all(|&i| (1_600..2_400).contains(&seen[i])), "{balance:?}: {seen:?}");
            assert!(set.order(balance, None, LATER).next().unwrap().0 != 2, "without a clock, too");
        }
    }

    #[test]
    fn keys_stay_when_an_endpoint_is_ejected_and_come_back_with_it() {
        let set = with_policy(5, Balance::Hash, &ejecting(1, 50));
        let choice = |key, now| set.order(Balance::Hash, Some(key), UnixMillis(now)).next().unwrap().0;
        let before: Vec<usize> = (0..500).map(|key| choice(key, 0)).collect();
        assert!(set.failed(EndpointIndex(3), UnixMillis(1_000)));
        for (key, &was) in (0..500).zip(&before) {
            let is = choice(key, 2_000);
            assert!(is != 3 && (is == was || was == 3));
            assert_eq!(choice(key, 11_000), was);
        }
    }

    #[test]
    fn a_slow_start_gets_its_growing_share_under_every_rule() {
        let policy = EndpointPolicy { slow_start: Duration::from_secs(100), ..EndpointPolicy::default() };
        for balance in EVERY_RULE {
            let set = with_policy(4, balance, &policy);
            set.states[1].renew(true);
            firsts(&set, balance, 1_000, 20);
            let seen = [1_000, 26_000, 51_000, 101_000].map(|now| firsts(&set, balance, now, 8_000)[1]);
            // A share of a quarter beside three full ones is 1 of 13, a half 1 of 7; a pair with it is as likely as
            // that. A key moves to it when it is its best, so there it is a quarter of a quarter, and so on.
            let expected = if balance == Balance::Hash { [0, 500, 1_000, 2_000] } else { [0, 615, 1_142, 2_000] };
            for (seen, expected) in seen.into_iter().zip(expected) {
                let least = expected * 7 / 10;
                assert!((least..=expected * 13 / 10 + 10).contains(&seen), "{balance:?}: {seen} for {expected}");
            }
        }
    }

    #[test]
    fn keys_move_once_while_an_endpoint_starts_slowly() {
        let policy = EndpointPolicy { slow_start: Duration::from_secs(100), ..EndpointPolicy::default() };
        let set = with_policy(4, Balance::Hash, &policy);
        set.states[1].renew(true);
        for key in 0..200 {
            let at = |now| set.order(Balance::Hash, Some(key), UnixMillis(now)).next().unwrap().0;
            let mut choices: Vec<usize> = (1..=101).map(|second| at(second * 1_000)).collect();
            choices.dedup();
            assert!(choices.len() <= 2 && (choices.len() == 1 || choices[1] == 1), "{choices:?}");
        }
    }

    #[test]
    fn weight_0_is_left_alone_even_when_the_others_are_out() {
        let endpoints = [endpoint(1, 0), endpoint(2, 1), endpoint(3, 5)].into();
        let policy = ejecting(1, 100);
        let set = EndpointSet::build(endpoints, Balance::Weighted, &policy, Affinity::None, &mut Inherited::default());
        let now = UnixMillis(5);
        for i in [1, 2] {
            assert!(set.failed(EndpointIndex(i), now));
            for _ in 0..100 {
                let order: Vec<usize> = set.candidates(client(1, now.0)).map(|i| i.0).collect();
                assert_eq!(order[2], 0, "{order:?}");
                assert!(i == 2 || order[0] == 2);
            }
        }
    }

    #[test]
    fn affinity_leaves_an_ejected_endpoint_and_another_rule_does_not_ask_it() {
        let endpoints = (0..3).map(|n| endpoint(n, 1)).collect();
        let set = EndpointSet::build(endpoints, Balance::Random, &ejecting(1, 50), STICKY, &mut Inherited::default());
        set.chosen(client(1, 0), EndpointIndex(1));
        assert!(set.failed(EndpointIndex(1), UnixMillis(10)));
        let order: Vec<usize> = set.candidates(client(1, 20)).map(|i| i.0).collect();
        assert_eq!(order[2], 1);
        let pinned: Vec<usize> = set.starting_at(EndpointIndex(1)).at(UnixMillis(20)).map(|i| i.0).collect();
        assert_eq!(pinned, [1, 2, 0], "who is named comes first all the same");
        let pinned: Vec<usize> = set.starting_at(EndpointIndex(0)).at(UnixMillis(20)).map(|i| i.0).collect();
        assert_eq!(pinned, [0, 2, 1]);
    }

    #[test]
    fn a_limit_holds_over_sets_of_one_port_and_over_configurations() {
        let admission = Admission { max_in_flight: Some(1), max_pending: None };
        let policy = EndpointPolicy { admission, ..EndpointPolicy::default() };
        let mut inherited = Inherited::default();
        let mut build = |policy| {
            EndpointSet::build([endpoint(1, 1)].into(), Balance::Random, policy, Affinity::None, &mut inherited)
        };
        let (one, other) = (build(&policy), build(&policy));
        let permit = one.admit().unwrap();
        assert_eq!(other.admit().unwrap_err(), Full::InFlight);
        let unlimited = build(&EndpointPolicy::default());
        drop((unlimited.admit().unwrap(), permit));
        assert!(other.admit().is_ok());
    }
}
