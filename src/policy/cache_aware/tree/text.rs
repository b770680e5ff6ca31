//! Prompts as text. Edges are bytes, which compare fast; sizes are characters.

use std::ops::ControlFlow;

use super::sequence::{Item, Sequence};
use crate::api::prompt::Prompt;

impl Item for u8 {
    fn size(run: &[Self]) -> u64 {
        // Blocks whose count fits in a byte let the sum run over many bytes at once.
        let count = |block: &[Self]| {
            let starts = block.iter().map(|byte| Self::from(!byte.continues()));
            u64::from(starts.fold(0, Self::wrapping_add))
        };
        run.chunks(192).map(count).sum()
    }

    fn continues(self) -> bool {
        self & 0b1100_0000 == 0b1000_0000
    }

    fn spread(self) -> u64 {
        self.into()
    }
}

/// The text of `prompt`, where it stands.
pub(super) fn of<'a>(prompt: &Prompt<'a>) -> Sequence<'a, u8> {
    let mut pieces = Vec::with_capacity(16);
    prompt.visit(|piece| {
        pieces.push(piece);
        ControlFlow::Continue(())
    });
    Sequence::new(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_counted_not_bytes() {
        for text in ["", "abc", "é", "日本語 und mehr", &"aé日😀".repeat(500)] {
            let count = u8::size(text.as_bytes());
            assert_eq!(usize::try_from(count).unwrap(), text.chars().count());
        }
    }
}
