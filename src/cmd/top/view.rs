//! What the reader looks at, and what the keys do to it.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::look::Look;
use super::panes;
use super::table::{Order, Table};
use crate::api::overview::Overview;

/// Most characters of a filter.
const FILTER: usize = 64;

/// What the body of the screen shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Pane {
    #[default]
    Workers,
    Models,
    Failures,
    Config,
}

impl Pane {
    /// In the order of their keys.
    pub(super) const ALL: [Self; 4] = [Self::Workers, Self::Models, Self::Failures, Self::Config];

    /// What its tab says.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Workers => "Workers",
            Self::Models => "Models",
            Self::Failures => "Failures",
            Self::Config => "Config",
        }
    }

    /// Its table, if it is one.
    pub(super) fn table(self, overview: &Overview, look: Look) -> Option<Table> {
        match self {
            Self::Workers => Some(panes::workers(overview, Some(look))),
            Self::Models => Some(panes::models(overview, Some(look))),
            Self::Failures => Some(panes::failures(overview)),
            Self::Config => None,
        }
    }

    fn place(self) -> usize {
        Self::ALL
            .iter()
            .position(|it| *it == self)
            .unwrap_or_default()
    }

    /// The pane that many places further, around the end.
    fn after(self, places: usize) -> Self {
        let at = (self.place() + places) % Self::ALL.len();
        Self::ALL.get(at).copied().unwrap_or_default()
    }
}

/// Where a reader is in a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The line that is marked; in plain text the first one that is seen.
    pub(super) line: usize,
    /// The first line that is seen.
    pub(super) top: usize,
    pub(super) order: Order,
}

/// What the keys ask of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Show what has changed.
    Redraw,
    /// End.
    Quit,
}

/// What the reader has chosen.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) look: Look,
    pub(super) pane: Pane,
    /// By [`Pane::ALL`], the help last.
    places: [Place; 5],
    /// What rows must hold to be shown.
    pub(super) filter: String,
    /// Whether the filter is being typed.
    pub(super) typing: bool,
    /// Whether the figures stand still.
    pub(super) paused: bool,
    /// Whether the help is shown in place of a pane.
    pub(super) help: bool,
    /// Lines that a page of the body has; drawing tells.
    pub(super) page: usize,
}

impl View {
    /// As it is in the beginning.
    pub(super) fn new(look: Look) -> Self {
        Self {
            look,
            pane: Pane::default(),
            places: [Place::default(); 5],
            filter: String::new(),
            typing: false,
            paused: false,
            help: false,
            page: 1,
        }
    }

    /// Where the reader is in what is shown.
    pub(super) fn place(&mut self) -> &mut Place {
        let [workers, models, failures, config, help] = &mut self.places;
        match (self.help, self.pane) {
            (true, _) => help,
            (_, Pane::Workers) => workers,
            (_, Pane::Models) => models,
            (_, Pane::Failures) => failures,
            (_, Pane::Config) => config,
        }
    }

    /// Keeps the marked line of `lines` within a page of `height`.
    pub(super) fn follow(&mut self, lines: usize, height: usize) -> Place {
        self.page = height.max(1);
        let place = self.place();
        place.line = place.line.min(lines.saturating_sub(1));
        place.top = place.top.min(lines.saturating_sub(height));
        place.top = place.top.min(place.line);
        place.top = place
            .top
            .max((place.line + 1).saturating_sub(height.max(1)));
        *place
    }

    /// Keeps text of `lines` within a page of `height`: there is no mark in it.
    pub(super) fn scroll(&mut self, lines: usize, height: usize) -> usize {
        self.page = height.max(1);
        let place = self.place();
        place.line = place.line.min(lines.saturating_sub(height));
        place.line
    }

    /// Does what a key asks for.
    pub(super) fn key(&mut self, key: KeyEvent, overview: &Overview) -> Option<Wish> {
        if key.kind == KeyEventKind::Release {
            return None;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && matches!(key.code, KeyCode::Char('c' | 'C' | 'd' | 'D')) {
            return Some(Wish::Quit);
        }
        if self.typing {
            self.typed(key.code);
            return Some(Wish::Redraw);
        }
        let page = self.page;
        match key.code {
            KeyCode::Char('q') => return Some(Wish::Quit),
            KeyCode::Esc if self.help => self.help = false,
            KeyCode::Esc if !self.filter.is_empty() => self.filter.clear(),
            KeyCode::Esc => return Some(Wish::Quit),
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.help = !self.help,
            KeyCode::Tab | KeyCode::Right => self.turn_to(self.pane.after(1)),
            KeyCode::BackTab | KeyCode::Left => self.turn_to(self.pane.after(3)),
            KeyCode::Char('1') => self.turn_to(Pane::Workers),
            KeyCode::Char('2') => self.turn_to(Pane::Models),
            KeyCode::Char('3') => self.turn_to(Pane::Failures),
            KeyCode::Char('4' | 'e') => self.turn_to(Pane::Config),
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('/') => {
                self.help = false;
                self.typing = true;
            }
            KeyCode::Char('s') => self.sort(overview),
            KeyCode::Char('S' | 'r') => {
                let order = &mut self.place().order;
                order.reversed = order.column.is_some() && !order.reversed;
            }
            KeyCode::Down | KeyCode::Char('j') => self.step(|line| line.saturating_add(1)),
            KeyCode::Up | KeyCode::Char('k') => self.step(|line| line.saturating_sub(1)),
            KeyCode::PageDown => self.step(|line| line.saturating_add(page)),
            KeyCode::PageUp => self.step(|line| line.saturating_sub(page)),
            KeyCode::Home | KeyCode::Char('g') => self.step(|_| 0),
            KeyCode::End | KeyCode::Char('G') => self.step(|_| usize::MAX / 2),
            _ => return None,
        }
        Some(Wish::Redraw)
    }

    fn step(&mut self, to: impl Fn(usize) -> usize) {
        let place = self.place();
        place.line = to(place.line);
    }

    fn turn_to(&mut self, pane: Pane) {
        self.help = false;
        self.pane = pane;
    }

    fn typed(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.typing = self.filter.pop().is_some();
            }
            KeyCode::Char(c) if !c.is_control() && self.filter.chars().count() < FILTER => {
                self.filter.push(c);
            }
            _ => {}
        }
    }

    /// Sorts by the next column, and after the last one as the gateway has it.
    fn sort(&mut self, overview: &Overview) {
        let table = self.pane.table(overview, self.look);
        let columns = table.map_or(0, |table| table.columns.len());
        let order = &mut self.place().order;
        let next = order.column.map_or(0, |column| column + 1);
        *order = Order {
            column: (next < columns).then_some(next),
            reversed: false,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::overview::{Pool, Worker};

    const LOOK: Look = Look {
        colour: true,
        unicode: true,
    };

    fn press(view: &mut View, codes: &[KeyCode]) -> Option<Wish> {
        let overview = Overview {
            pools: vec![Pool {
                workers: vec![Worker::default(); 9],
                ..Pool::default()
            }],
            ..Overview::default()
        };
        let pressed = codes.iter().map(|code| view.key((*code).into(), &overview));
        pressed.last().flatten()
    }

    #[test]
    fn escape_leaves_one_thing_after_the_other() {
        let mut view = View::new(LOOK);
        let (escape, letter) = (KeyCode::Esc, KeyCode::Char);
        press(
            &mut view,
            &[letter('/'), letter('q'), letter('s'), KeyCode::Enter],
        );
        assert_eq!((view.filter.as_str(), view.typing), ("qs", false));
        press(&mut view, &[letter('?')]);
        assert!(view.help);
        assert_eq!(press(&mut view, &[escape]), Some(Wish::Redraw));
        assert!(!view.help);
        assert_eq!(press(&mut view, &[escape]), Some(Wish::Redraw));
        assert_eq!(view.filter, "");
        assert_eq!(press(&mut view, &[escape]), Some(Wish::Quit));
        assert_eq!(press(&mut view, &[letter('q')]), Some(Wish::Quit));
        assert_eq!(press(&mut view, &[letter('x')]), None);
        let stop = KeyEvent::new(letter('c'), KeyModifiers::CONTROL);
        press(&mut view, &[letter('/')]);
        assert_eq!(view.key(stop, &Overview::default()), Some(Wish::Quit));
    }

    #[test]
    fn sorting_goes_around() {
        let mut view = View::new(LOOK);
        let columns = panes::workers(&Overview::default(), None).columns.len();
        for column in 0..columns {
            press(&mut view, &[KeyCode::Char('s')]);
            assert_eq!(view.place().order.column, Some(column));
        }
        press(&mut view, &[KeyCode::Char('S')]);
        assert!(view.place().order.reversed);
        press(&mut view, &[KeyCode::Char('s')]);
        assert_eq!(view.place().order, Order::default());
        press(&mut view, &[KeyCode::Char('S')]);
        assert_eq!(view.place().order, Order::default());
    }

    #[test]
    fn the_mark_stays_in_sight() {
        let mut view = View::new(LOOK);
        view.follow(9, 4);
        press(&mut view, &[KeyCode::PageDown, KeyCode::Char('j')]);
        let place = view.follow(9, 4);
        assert_eq!((place.line, place.top), (5, 2));
        press(&mut view, &[KeyCode::End]);
        let place = view.follow(9, 4);
        assert_eq!((place.line, place.top), (8, 5));
        let place = view.follow(3, 4);
        assert_eq!((place.line, place.top), (2, 0));
        let place = view.follow(0, 0);
        assert_eq!((place.line, place.top), (0, 0));
        press(&mut view, &[KeyCode::End, KeyCode::Tab, KeyCode::Tab]);
        assert_eq!((view.pane, view.scroll(3, 9)), (Pane::Failures, 0));
        press(&mut view, &[KeyCode::Left, KeyCode::Left, KeyCode::BackTab]);
        assert_eq!(view.pane, Pane::Config);
    }
}
