//! The search for free RAM.

use core::ops::Range;

/// The largest part of the `ram` ranges that no `taken` range touches. Its ends are multiples of
/// `align`, a power of two.
pub fn largest_gap(ram: &[Range<u64>], taken: &[Range<u64>], align: u64) -> Option<Range<u64>> {
    let taken = || taken.iter().filter(|taken| !taken.is_empty());
    let mut best: Option<Range<u64>> = None;
    for range in ram {
        // A gap begins where RAM does, or where something taken ends.
        let starts = taken().map(|taken| taken.end).chain([range.start]);
        for start in starts.filter(|start| range.contains(start)) {
            if taken().any(|taken| taken.contains(&start)) {
                continue;
            }
            let next = taken().map(|taken| taken.start);
            let end = next.filter(|&next| next >= start).fold(range.end, u64::min);
            let Some(start) = start.checked_next_multiple_of(align) else {
                continue;
            };
            let gap = start..end & !(align - 1);
            let size = |gap: &Range<u64>| gap.end.saturating_sub(gap.start);
            if size(&gap) > best.as_ref().map_or(0, size) {
                best = Some(gap);
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_largest_gap_of_a_small_vm() {
        let ram = [0..0xa0000, 0x10_0000..0x400_0000];
        let image = 0x20_0000..0x28_3000;
        let initrd = 0x3f0_0000..0x3f0_0123;
        let low = 0..0x10_0000;
        let taken = [low, image, initrd];
        assert_eq!(
            largest_gap(&ram, &taken, 0x1000),
            Some(0x28_3000..0x3f0_0000)
        );
        assert_eq!(largest_gap(&ram, &[0..1 << 30, 0..u64::MAX], 0x1000), None);
        assert_eq!(largest_gap(&[], &[], 0x1000), None);
        assert_eq!(largest_gap(&[1..0xfff, 0x1001..0x2fff], &[], 0x1000), None);
    }

    fn ranges() -> impl Strategy<Value = Vec<Range<u64>>> {
        vec(
            (0u64..64, 0u64..20).prop_map(|(start, len)| start..start + len),
            0..5,
        )
    }

    proptest! {
        #[test]
        fn agrees_with_a_search_byte_by_byte(ram in ranges(), taken in ranges(), bits in 0u32..3) {
            let align = 1 << bits;
            let free = |range: &Range<u64>, at: u64| {
                range.contains(&at) && !taken.iter().any(|taken| taken.contains(&at))
            };
            let mut size = 0;
            for range in &ram {
                for start in (0..100u64).step_by(align as usize) {
                    let end = (start..).find(|&at| !free(range, at)).unwrap();
                    size = size.max((end & !(align - 1)).saturating_sub(start));
                }
            }
            let gap = largest_gap(&ram, &taken, align);
            prop_assert_eq!(gap.clone().map_or(0, |gap| gap.end - gap.start), size);
            if let Some(gap) = gap {
                prop_assert_eq!(gap.start % align, 0);
                prop_assert!(ram.iter().any(|range| gap.clone().all(|at| free(range, at))));
            }
        }
    }
}
