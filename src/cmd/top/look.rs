//! Colours and signs: what the terminal at hand can show.

use ratatui::style::{Color, Modifier, Style};

use crate::config::Environment;

/// What the terminal can show. Nothing is said by colour alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Colours, of which 16 suffice.
    pub(super) colour: bool,
    /// Signs beyond ASCII.
    pub(super) unicode: bool,
}

/// What a piece of text is to the reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    /// Nothing special.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// To keep an eye on.
    Warn,
    /// Wrong.
    Bad,
    /// Of less interest.
    Dim,
    /// Of more interest.
    Strong,
}

/// What stands before the word of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// It works.
    Up,
    /// It may work soon.
    Maybe,
    /// It does not work.
    Down,
    /// It is meant not to work.
    Out,
}

impl Look {
    /// As the variables of the terminal say: `NO_COLOR`, and the locale.
    pub(super) fn of(environment: &Environment) -> Self {
        let set = |name: &str| environment.get(name).filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
        let locale = locale.unwrap_or_default().to_ascii_lowercase();
        Self {
            colour: set("NO_COLOR").is_none(),
            unicode: locale.contains("utf-8") || locale.contains("utf8"),
        }
    }

    /// How text of this tone is set.
    pub(super) fn style(self, tone: Tone) -> Style {
        let style = Style::new();
        let coloured = |style: Style, colour| match self.colour {
            true => style.fg(colour),
            false => style,
        };
        match tone {
            Tone::Plain => style,
            Tone::Good => coloured(style, Color::Green),
            Tone::Warn => coloured(style, Color::Yellow),
            Tone::Bad => coloured(style.add_modifier(Modifier::BOLD), Color::Red),
            Tone::Dim => style.add_modifier(Modifier::DIM),
            Tone::Strong => style.add_modifier(Modifier::BOLD),
        }
    }

    /// A sign.
    pub(super) fn sign(self, sign: Sign) -> &'static str {
        match (sign, self.unicode) {
            (Sign::Up, true) => "●",
            (Sign::Maybe, true) => "◐",
            (Sign::Down, true) => "✗",
            (Sign::Out, true) => "○",
            (Sign::Up, false) => "+",
            (Sign::Maybe, false) => "~",
            (Sign::Down, false) => "x",
            (Sign::Out, false) => "o",
        }
    }

    /// What stands where text was cut.
    pub(super) fn cut(self) -> &'static str {
        match self.unicode {
            true => "…",
            false => "~",
        }
    }

    /// Shows which way a column is sorted.
    pub(super) fn arrow(self, down: bool) -> &'static str {
        match (down, self.unicode) {
            (true, true) => "▼",
            (false, true) => "▲",
            (true, false) => "v",
            (false, false) => "^",
        }
    }

    /// A curve of the last `width` values, as high as the highest of them.
    pub(super) fn curve(self, values: &[f64], width: usize) -> String {
        const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        const MARKS: [char; 8] = ['_', '.', ':', '-', '=', '+', '*', '#'];
        let steps = if self.unicode { BLOCKS } else { MARKS };
        let values = values.get(values.len().saturating_sub(width)..);
        let values = values.unwrap_or_default();
        let top = values.iter().copied().fold(0.0, f64::max);
        let step = |value: &f64| {
            let part = if top > 0.0 { value / top } else { 0.0 };
            let step = (part * 7.0).ceil().clamp(0.0, 7.0) as usize;
            steps.get(step).copied().unwrap_or(' ')
        };
        values.iter().map(step).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Look = Look {
        colour: true,
        unicode: true,
    };

    #[test]
    fn curves() {
        assert_eq!(FULL.curve(&[9.0, 0.0, 1.0, 7.0], 3), "▁▂█");
        assert_eq!(FULL.curve(&[0.0, 0.0], 9), "▁▁");
        assert_eq!(FULL.curve(&[], 9), "");
        assert_eq!(FULL.curve(&[1.0], 0), "");
        let plain = Look {
            unicode: false,
            ..FULL
        };
        assert_eq!(plain.curve(&[0.0, 7.0], 2), "_#");
    }

    #[test]
    fn the_variables_decide() {
        let look = |pairs: &[(&str, &str)]| Look::of(&pairs.iter().copied().collect());
        assert!(look(&[]).colour && !look(&[]).unicode);
        assert!(!look(&[("NO_COLOR", "1")]).colour);
        assert!(look(&[("NO_COLOR", ""), ("LANG", "de_DE.UTF-8")]).unicode);
        assert!(!look(&[("LANG", "de_DE.UTF-8"), ("LC_ALL", "C")]).unicode);
    }
}
