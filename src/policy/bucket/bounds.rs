//! Where the buckets meet.

/// Greatest length that the first buckets are made for, in characters.
const FIRST_MAX: u64 = 4096;

/// Lengths that are looked at when the buckets are set anew; of more, the latest.
const SAMPLE: usize = 4096;

/// Buckets side by side: each begins where the one before it ends, and the last has no end.
///
/// Invariant: the first begins at 0, and none begins before its predecessor.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    starts: Vec<u64>,
    max: u64,
    target: Option<u64>,
    sample: Sample,
}

/// What came in since the buckets were last looked at.
#[derive(Debug, Clone, Default)]
struct Sample {
    lengths: Vec<u32>,
    next: usize,
    total: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            starts: Vec::new(),
            max: FIRST_MAX,
            target: None,
            sample: Sample::default(),
        }
    }
}

impl Bounds {
    /// `count` buckets of equal width, as wide as the greatest length of late allows.
    pub(super) fn rebuild(&mut self, count: usize) {
        let count = count as u64;
        let gap = self.max.checked_div(count).unwrap_or(0).max(1);
        self.starts = (0..count).map(|at| at * gap).collect();
        self.target = None;
    }

    /// The bucket for this length.
    pub(super) fn find(&self, length: u64) -> usize {
        let above = self.starts.partition_point(|start| *start <= length);
        above.saturating_sub(1)
    }

    /// First and last length of a bucket; the last bucket has no last length.
    pub(super) fn range(&self, bucket: usize) -> (u64, Option<u64>) {
        let start = self.starts.get(bucket).copied().unwrap_or(0);
        let next = self.starts.get(bucket + 1);
        (start, next.map(|next| next.saturating_sub(1)))
    }

    /// Counts a prompt.
    pub(super) fn saw(&mut self, length: u64) {
        let sample = &mut self.sample;
        sample.total = sample.total.saturating_add(length);
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        match sample.lengths.get_mut(sample.next) {
            Some(place) => *place = length,
            None => sample.lengths.push(length),
        }
        sample.next = (sample.next + 1) % SAMPLE;
    }

    /// Has every bucket get the same share of what came in since the last time, unless the shares
    /// are still about what they were.
    pub(super) fn adjust(&mut self) {
        let Sample {
            mut lengths, total, ..
        } = std::mem::take(&mut self.sample);
        let count = self.starts.len() as u64;
        if lengths.is_empty() || count == 0 {
            return;
        }
        let target = total / count;
        let alike = |old: u64| target <= old.saturating_mul(2) && old <= target.saturating_mul(2);
        if self.target.is_some_and(|old| old > 0 && alike(old)) {
            return;
        }
        self.target = Some(target);
        lengths.sort_unstable();
        let greatest = lengths.last().copied().unwrap_or(0);
        self.max = u64::from(greatest).max(1);
        // Of a part of the lengths each bucket gets its share of that part.
        let seen: u64 = lengths.iter().map(|length| u64::from(*length)).sum();
        let share = seen / count;
        let mut lengths = lengths.into_iter().map(u64::from);
        let mut start = 0;
        for next in self.starts.iter_mut().skip(1) {
            let mut sum = 0;
            for length in lengths.by_ref() {
                sum += length;
                if sum >= share {
                    start = start.max(length + 1);
                    break;
                }
            }
            *next = start;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(count: usize) -> Bounds {
        let mut bounds = Bounds::default();
        bounds.rebuild(count);
        bounds
    }

    #[test]
    fn the_first_buckets_divide_4096() {
        let bounds = of(4);
        let ranges: Vec<_> = (0..4).map(|at| bounds.range(at)).collect();
        assert_eq!(
            ranges,
            [
                (0, Some(1023)),
                (1024, Some(2047)),
                (2048, Some(3071)),
                (3072, None)
            ]
        );
        for (length, bucket) in [(0, 0), (1023, 0), (1024, 1), (3072, 3), (u64::MAX, 3)] {
            assert_eq!(bounds.find(length), bucket, "{length}");
        }
    }

    #[test]
    fn bounds_follow_the_sum_of_the_sorted_lengths() {
        let mut bounds = of(3);
        for length in [600, 100, 200, 300, 100, 500] {
            bounds.saw(length);
        }
        // 1800 in all: 100 100 200 300 | 500 600 | nothing is left.
        bounds.adjust();
        assert_eq!(bounds.range(0), (0, Some(300)));
        assert_eq!(bounds.range(1), (301, Some(600)));
        assert_eq!(bounds.range(2), (601, None));
    }

    #[test]
    fn a_target_within_a_factor_of_two_changes_nothing() {
        let mut bounds = of(2);
        let round = |bounds: &mut Bounds, lengths: &[u64]| {
            for length in lengths {
                bounds.saw(*length);
            }
            bounds.adjust();
            bounds.range(0).1
        };
        assert_eq!(round(&mut bounds, &[100, 100]), Some(100));
        assert_eq!(round(&mut bounds, &[200, 200]), Some(100), "just within");
        assert_eq!(round(&mut bounds, &[50, 50]), Some(100), "just within");
        assert_eq!(round(&mut bounds, &[]), Some(100), "nothing came");
        assert_eq!(round(&mut bounds, &[201, 201]), Some(201));
        assert_eq!(round(&mut bounds, &[20, 20]), Some(20));
    }

    /// What is unbounded is the last bucket, not the length that the next ones are made for.
    #[test]
    fn a_rebuild_never_divides_infinity() {
        let mut bounds = of(2);
        bounds.saw(9000);
        bounds.saw(1000);
        bounds.adjust();
        bounds.rebuild(3);
        let starts: Vec<u64> = (0..3).map(|at| bounds.range(at).0).collect();
        assert_eq!(starts, [0, 3000, 6000]);
        bounds.rebuild(0);
        bounds.rebuild(2);
        assert_eq!(bounds.range(1), (4500, None));
        // Set anew at the next interval, however little has changed.
        bounds.saw(9000);
        bounds.saw(1000);
        bounds.adjust();
        assert_eq!(bounds.range(1), (9001, None));
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn buckets_are_contiguous_and_the_last_is_unbounded(
            steps in prop::collection::vec(
                prop_oneof![
                    (1_usize..40).prop_map(Err),
                    prop::collection::vec(prop_oneof![0..50_u64, 0..2_000_000_u64, Just(u64::MAX)], 0..60)
                        .prop_map(Ok),
                ],
                1..12,
            ),
            probes in prop::collection::vec(0..3_000_000_u64, 20),
        ) {
            let mut bounds = of(3);
            let mut count = 3;
            for step in steps {
                match step {
                    Err(workers) => {
                        count = workers;
                        bounds.rebuild(workers);
                    }
                    Ok(lengths) => {
                        lengths.iter().for_each(|length| bounds.saw(*length));
                        bounds.adjust();
                    }
                }
                prop_assert_eq!(bounds.starts.len(), count);
                prop_assert_eq!(bounds.starts[0], 0);
                prop_assert!(bounds.starts.is_sorted());
                prop_assert!(bounds.max >= 1 && bounds.max < u64::MAX);
                prop_assert_eq!(bounds.range(count - 1).1, None);
                for probe in probes.iter().chain(&bounds.starts) {
                    let (from, to) = bounds.range(bounds.find(*probe));
                    prop_assert!(from <= *probe && to.is_none_or(|to| *probe <= to));
                }
            }
        }

        #[test]
        fn a_long_sample_keeps_the_latest(extra in 0..3000_usize) {
            let mut bounds = of(2);
            for _ in 0..extra {
                bounds.saw(7);
            }
            for _ in 0..SAMPLE {
                bounds.saw(100);
            }
            bounds.adjust();
            prop_assert_eq!(bounds.range(0).1, Some(100));
        }
    }
}
