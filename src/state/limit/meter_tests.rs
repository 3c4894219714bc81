//! Every algorithm against a slow reference over random traces.

use proptest::prelude::*;

use super::*;
use crate::state::limit::calendar::Period;

/// One thing that happens: after so many milliseconds somebody asks for an amount, and the oldest of those under way may
/// end with another.
#[derive(Debug, Clone)]
struct Step {
    after: u64,
    amount: u64,
    settle: Option<u64>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0u64..400, 0u64..12, proptest::option::of(0u64..20)).prop_map(|(after, amount, settle)| Step {
        after,
        amount,
        settle,
    });
    proptest::collection::vec(step, 1..120)
}

/// What the reference remembers of one taking: when its window began, the amount that counts now.
#[derive(Debug, Clone, Copy)]
struct Fact {
    at: u64,
    amount: u64,
}

/// Keeps every fact and sums them anew each time.
struct Reference {
    shape: Shape,
    facts: Vec<Fact>,
}

impl Reference {
    fn begin(&self, now: u64) -> u64 {
        match self.shape {
            Shape::Fixed(length) | Shape::Sliding(length) => now / length * length,
            Shape::Calendar(calendar) => calendar.bounds(now).0,
            _ => 0,
        }
    }

    /// Twice the length times the amount, so that halves are whole.
    fn fits(&self, limit: u64, amount: u64, now: u64) -> bool {
        let begin = self.begin(now);
        let of = |begin: u64| -> u64 {
            self.facts.iter().filter(|fact| self.begin(fact.at) == begin).map(|fact| fact.amount).sum()
        };
        match self.shape {
            Shape::Sliding(length) => {
                let before = if begin >= length { of(begin - length) } else { 0 };
                let left = begin + length - now;
                before as f64 * (left as f64 / length as f64) + (of(begin) + amount) as f64 <= limit as f64 + 1e-9
            }
            _ => of(begin) + amount <= limit,
        }
    }

    fn settle(&mut self, place: usize, actual: u64, now: u64) {
        let reserved = self.facts[place].amount;
        self.facts[place].amount = reserved.min(actual);
        if actual > reserved {
            self.facts.push(Fact { at: now, amount: actual - reserved });
        }
    }
}

fn run_windows(shape: Shape, limit: u64, steps: &[Step]) {
    let mut meter = Meter::default();
    let mut reference = Reference { shape, facts: Vec::new() };
    let mut under_way: Vec<(u64, u64, usize)> = Vec::new();
    let mut now = 1_700_000_000_123;
    for step in steps {
        now += step.after;
        meter.roll(shape, limit, now);
        let fits = meter.fits(shape, limit, step.amount, now);
        assert_eq!(fits, reference.fits(limit, step.amount, now), "{shape:?} at {now}: {meter:?}");
        if fits {
            let mark = meter.take(shape, step.amount);
            under_way.push((mark, step.amount, reference.facts.len()));
            reference.facts.push(Fact { at: now, amount: step.amount });
        } else if let Wait::Millis(wait) = meter.wait(shape, limit, step.amount, now) {
            // What `retry-after` promises holds, and not a millisecond earlier.
            let then = |now: u64| {
                let mut later = meter;
                later.roll(shape, limit, now);
                later.fits(shape, limit, step.amount, now)
            };
            assert!(then(now + wait), "{shape:?}: no room after {wait} ms: {meter:?}");
            assert!(!then(now + wait - 1), "{shape:?}: room before {wait} ms: {meter:?}");
        }
        if let Some(actual) = step.settle
            && !under_way.is_empty()
        {
            let (mark, reserved, place) = under_way.remove(0);
            meter.settle(shape, mark, reserved, actual);
            reference.settle(place, actual, now);
        }
        assert!(meter.held <= meter.cur && meter.held_prev <= meter.prev, "{meter:?}");
    }
    // Whoever is still under way gives back; then nothing is held any more in the windows that are left.
    for (mark, reserved, place) in under_way {
        meter.release(shape, mark, reserved);
        reference.settle(place, 0, now);
    }
    assert_eq!((meter.held, meter.held_prev), (0, 0));
    assert_eq!(meter.fits(shape, limit, 1, now), reference.fits(limit, 1, now));
}

/// A bucket that is drained one millisecond after the other.
fn run_bucket(length: u64, limit: u64, steps: &[Step]) {
    let shape = Shape::Bucket(length);
    let mut meter = Meter { start: 1_700_000_000_123, ..Meter::default() };
    let mut now = meter.start;
    let mut debt: u64 = 0;
    let mut under_way: Vec<(u64, u64)> = Vec::new();
    for step in steps {
        for _ in 0..step.after {
            now += 1;
            debt = debt.saturating_sub(limit);
        }
        meter.roll(shape, limit, now);
        let fits = meter.fits(shape, limit, step.amount, now);
        assert_eq!(fits, debt + step.amount * length <= limit * length, "at {now}: {meter:?}, {debt}");
        if fits {
            under_way.push((meter.take(shape, step.amount), step.amount));
            debt += step.amount * length;
        } else if let Wait::Millis(wait) = meter.wait(shape, limit, step.amount, now) {
            let over = debt + step.amount * length - limit * length;
            assert_eq!(wait, over.div_ceil(limit).max(1));
        }
        if let Some(actual) = step.settle
            && !under_way.is_empty()
        {
            let (mark, reserved) = under_way.remove(0);
            meter.settle(shape, mark, reserved, actual);
            debt = debt.saturating_sub(reserved.saturating_sub(actual) * length);
            debt += actual.saturating_sub(reserved) * length;
        }
        assert_eq!(meter.cur, u128::from(debt));
    }
}

proptest! {
    #[test]
    fn fixed_windows_do_what_a_list_of_all_takings_says(limit in 1u64..60, length in 50u64..2000, steps in steps()) {
        run_windows(Shape::Fixed(length), limit, &steps);
    }

    #[test]
    fn sliding_windows_do_what_a_list_of_all_takings_says(limit in 1u64..60, length in 50u64..2000, steps in steps()) {
        run_windows(Shape::Sliding(length), limit, &steps);
    }

    #[test]
    fn totals_and_calendars_do_what_a_list_of_all_takings_says(limit in 1u64..60, steps in steps()) {
        run_windows(Shape::Total, limit, &steps);
        run_windows(Shape::InFlight, limit, &steps);
        run_windows(Shape::Calendar(Calendar { period: Period::Minute, offset: 0 }), limit, &steps);
    }

    #[test]
    fn buckets_do_what_one_drained_each_millisecond_does(limit in 1u64..60, length in 50u64..2000, steps in steps()) {
        run_bucket(length, limit, &steps);
    }
}

#[test]
fn a_clock_that_goes_back_gives_nothing_back() {
    for shape in [Shape::Fixed(1000), Shape::Sliding(1000), Shape::Bucket(1000)] {
        let mut meter = Meter::default();
        meter.roll(shape, 1, 10_500);
        assert!(meter.fits(shape, 1, 1, 10_500));
        meter.take(shape, 1);
        for now in [10_400, 3000, 0] {
            meter.roll(shape, 1, now);
            assert!(!meter.fits(shape, 1, 1, now), "{shape:?} at {now}");
        }
    }
}

#[test]
fn a_clock_that_was_far_ahead_holds_nobody_up_and_gives_nothing_back() {
    const NOW: u64 = 1_700_000_000_000;
    const YEARS: u64 = 10 * 366 * 86_400_000;
    let day = Shape::Calendar(Calendar { period: Period::Day, offset: 60 });
    for shape in [Shape::Fixed(1000), Shape::Sliding(1000), Shape::Bucket(1000), day] {
        let mut meter = Meter::default();
        meter.roll(shape, 2, NOW + YEARS);
        meter.take(shape, 1);
        let mark = meter.take(shape, 1);
        meter.roll(shape, 2, NOW);
        assert!(!meter.fits(shape, 2, 1, NOW), "{shape:?} gave something back");
        let Wait::Millis(wait) = meter.wait(shape, 2, 1, NOW) else { panic!("{shape:?} never has room") };
        assert!(wait <= 2 * shape.length().expect("a length"), "{shape:?} has room after {wait} ms");
        // Whoever was under way ends, and a window later all is as it was.
        meter.settle(shape, mark, 1, 1);
        assert!(meter.held <= meter.cur && meter.held_prev <= meter.prev, "{shape:?} {meter:?}");
        meter.roll(shape, 2, NOW + wait);
        assert!(meter.fits(shape, 2, 1, NOW + wait), "{shape:?}: {meter:?}");
        meter.roll(shape, 2, NOW + YEARS / 2);
        assert!(meter.is_empty() && meter.held == 0, "{shape:?}: {meter:?}");
    }
}

#[test]
fn large_amounts_do_not_overflow() {
    let month = Shape::Calendar(Calendar { period: Period::Month, offset: 0 });
    for shape in [Shape::Sliding(31_536_000_000), Shape::Bucket(31_536_000_000), month, Shape::Total] {
        let mut meter = Meter::default();
        meter.roll(shape, u64::MAX, 1_700_000_000_000);
        assert!(meter.fits(shape, u64::MAX, u64::MAX, 1_700_000_000_000));
        meter.take(shape, u64::MAX);
        assert!(!meter.fits(shape, u64::MAX, 1, 1_700_000_000_000), "{shape:?}");
        assert_eq!(meter.used(shape, 1_700_000_000_000), u64::MAX);
    }
}
