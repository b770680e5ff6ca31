//! How many of the latest requests a worker had, without a list of them: the sequence of requests is
//! cut into windows, and of each worker the counts of the present one and the one before are kept.

/// A place in the sequence of all requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    number: u32,
    /// How much of the window has gone by.
    gone: f64,
}

impl Window {
    /// Of the request that comes after `picks` others, in windows of `length` requests.
    pub(super) fn at(picks: u64, length: u64) -> Self {
        let length = length.max(1);
        Self {
            // Numbers are compared with their neighbours only.
            number: ((picks / length) & u64::from(u32::MAX)) as u32,
            gone: (picks % length) as f64 / length as f64,
        }
    }
}

/// Requests that one worker had in a window and in the one before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recent {
    number: u32,
    before: u16,
    now: u16,
}

impl Recent {
    /// From [`pack`](Self::pack).
    #[inline]
    pub(super) const fn unpack(word: u64) -> Self {
        Self {
            number: (word >> 32) as u32,
            before: (word >> 16 & 0xffff) as u16,
            now: (word & 0xffff) as u16,
        }
    }

    /// As one word; 0 for a worker that had none.
    pub(super) const fn pack(self) -> u64 {
        (self.number as u64) << 32 | (self.before as u64) << 16 | self.now as u64
    }

    /// Requests in the length of a window up to `window`.
    #[inline]
    pub(super) fn at(self, window: Window) -> f64 {
        let Self { before, now, .. } = self.moved(window);
        f64::from(before) * (1.0 - window.gone) + f64::from(now)
    }

    /// With one more request in `window`.
    pub(super) fn and_one(self, window: Window) -> Self {
        let moved = self.moved(window);
        Self {
            now: moved.now.saturating_add(1),
            ..moved
        }
    }

    #[inline]
    fn moved(self, window: Window) -> Self {
        let (before, now) = match window.number.wrapping_sub(self.number) {
            0 => (self.before, self.now),
            1 => (self.now, 0),
            _ => (0, 0),
        };
        Self {
            number: window.number,
            before,
            now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_fades() {
        let mut recent = Recent::unpack(0);
        for picks in 0..100 {
            recent = Recent::unpack(recent.and_one(Window::at(picks, 100)).pack());
        }
        for (picks, left) in [
            (99, 100.0),
            (100, 100.0),
            (150, 50.0),
            (199, 1.0),
            (200, 0.0),
        ] {
            let at = recent.at(Window::at(picks, 100));
            assert!((at - left).abs() < 0.01, "{picks}: {at}");
        }
    }
}
