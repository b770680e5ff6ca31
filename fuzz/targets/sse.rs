//! Event streams: however the bytes are cut, the same is seen of them. The first byte says how.

use smg::api::sse::{Dialect, Reader, Seen};

pub(crate) fn run(input: &[u8]) {
    let Some((how, stream)) = input.split_first() else {
        return;
    };
    for dialect in [Dialect::Completions, Dialect::Responses] {
        let whole = watched(dialect, std::iter::once(stream));
        let bytewise = watched(dialect, stream.chunks(1));
        assert_eq!(whole, bytewise);
        let cut = watched(dialect, stream.chunks(usize::from(*how) % 61 + 2));
        assert_eq!(whole, cut);
    }
}

/// What was seen of a stream by its end.
#[derive(Debug, PartialEq)]
struct Sum {
    events: u64,
    content: bool,
    done: bool,
    failed: bool,
    ended: bool,
    boundary: bool,
    sequence: u64,
    id: Option<String>,
    usage: Option<smg::api::Usage>,
}

fn watched<'a>(dialect: Dialect, chunks: impl Iterator<Item = &'a [u8]>) -> Sum {
    let mut reader = Reader::new(dialect);
    let mut sum = Sum {
        events: 0,
        content: false,
        done: false,
        failed: false,
        ended: false,
        boundary: false,
        sequence: 0,
        id: None,
        usage: None,
    };
    let mut add = |seen: Seen| {
        sum.content |= seen.content;
        sum.done |= seen.done;
        sum.failed |= seen.error.is_some();
        sum.usage = seen.usage.or_else(|| sum.usage.take());
        u64::from(seen.events)
    };
    let mut counted = 0;
    for chunk in chunks {
        counted += add(reader.read(chunk));
    }
    let boundary = reader.at_boundary();
    counted += add(reader.finish());
    assert_eq!(counted, reader.events());
    sum.events = counted;
    sum.ended = reader.ended();
    sum.boundary = boundary;
    sum.sequence = reader.next_sequence();
    sum.id = reader.response_id().map(str::to_owned);
    sum
}
