//! Connections of HTTP/2 on which a client does what costs it little and the other side much. Memory
//! stays bounded, others are served meanwhile, and nothing is left behind.

use std::time::{Duration, Instant};

use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, PSEUDO, RST_STREAM, Raw,
    SETTINGS, WINDOW_UPDATE, alive, block, completion, frame, literal,
};
use crate::scene::{ask, gateway, plain_engine, settled};
use crate::support::{FakeEngine, Smg, post};

/// What the gateway may grow by while it is flooded, KiB.
const ROOM: u64 = 48 * 1024;

/// The gateway before an engine, warm, and its memory then.
async fn warm() -> (Smg, FakeEngine, u64) {
    let engine = plain_engine().await;
    let mut smg = gateway(&[&engine], "").await;
    served(&smg).await;
    let mut raw = Raw::connect(smg.main()).await;
    raw.write(alive(1)).await;
    raw.outcome(1).await;
    let before = smg.process().rss_kb();
    (smg, engine, before)
}

/// Somebody else is served, and soon.
async fn served(smg: &Smg) {
    let started = Instant::now();
    assert_eq!(
        post(smg.main(), "/v1/completions", &ask()).await.status,
        200
    );
    assert!(started.elapsed() < Duration::from_secs(5), "served late");
}

async fn left_nothing(mut smg: Smg, before: u64) {
    settled(&smg).await;
    let grown = smg.process().rss_kb().saturating_sub(before);
    assert!(grown < ROOM, "{grown} KiB more");
}

/// Writes the same bytes again and again until the other side has had enough.
async fn flood(smg: &Smg, raw: &mut Raw, bytes: &[u8], times: usize) {
    for n in 0..times {
        if !raw.write(bytes).await {
            break;
        }
        if n % 64 == 0 {
            served(smg).await;
        }
    }
    served(smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_opened_and_reset_at_once() {
    for head in [alive as fn(u32) -> Vec<u8>, completion] {
        let (smg, engine, before) = warm().await;
        let calls = engine.calls().len();
        let mut raw = Raw::connect(smg.main()).await;
        let mut stream = 1;
        let mut others = 0;
        'flood: for _ in 0..100 {
            let mut bytes = Vec::new();
            for _ in 0..200 {
                bytes.extend(head(stream));
                bytes.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
                stream += 2;
            }
            if !raw.write(bytes).await {
                break 'flood;
            }
            served(&smg).await;
            others += 1;
        }
        drop(raw);
        served(&smg).await;
        assert_eq!(engine.calls().len(), calls + others + 1);
        left_nothing(smg, before).await;
    }
}

/// The same with a whole request each, that the worker is asked and which nobody waits for.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_given_up_at_once_leave_no_worker_busy() {
    let (smg, _engine, before) = warm().await;
    for _ in 0..5 {
        let mut raw = Raw::connect(smg.main()).await;
        let mut stream = 1;
        for _ in 0..20 {
            let mut bytes = Vec::new();
            for _ in 0..50 {
                bytes.extend(completion(stream));
                bytes.extend(frame(
                    DATA,
                    END_STREAM,
                    stream,
                    ask().to_string().as_bytes(),
                ));
                bytes.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
                stream += 2;
            }
            if !raw.write(bytes).await {
                break;
            }
        }
        served(&smg).await;
    }
    left_nothing(smg, before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_continued_for_ever() {
    let (smg, _engine, before) = warm().await;
    let mut small = Vec::new();
    literal(&mut small, 0, "x-many", "y");
    let mut large = Vec::new();
    literal(&mut large, 0, "x-large", &"y".repeat(16_000));
    for part in [Vec::new(), small, large] {
        let mut raw = Raw::connect(smg.main()).await;
        raw.write(frame(HEADERS, END_STREAM, 1, &block(PSEUDO)))
            .await;
        let parts = frame(CONTINUATION, 0, 1, &part).repeat(64);
        flood(&smg, &mut raw, &parts, 512).await;
        // Whether it was still taking or not, it does not take this for the end of a head.
        raw.write(frame(PING, 0, 0, &[0; 8])).await;
        raw.ended().await;
    }
    left_nothing(smg, before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_want_an_answer_nobody_reads() {
    let setting = [0, 4, 0, 1, 0, 0];
    let empty = frame(DATA, 0, 1, &[]);
    let update = frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes());
    for bytes in [
        frame(SETTINGS, 0, 0, &setting),
        frame(SETTINGS, 0, 0, &setting.repeat(100)),
        frame(PING, 0, 0, &[7; 8]),
        frame(PRIORITY, 0, 3, &[0, 0, 0, 1, 16]),
        frame(0xfe, 0, 0, &[0; 100]),
        update,
        empty,
    ] {
        let (smg, _engine, before) = warm().await;
        let mut raw = Raw::connect(smg.main()).await;
        raw.write(completion(1)).await;
        flood(&smg, &mut raw, &bytes.repeat(500), 200).await;
        drop(raw);
        left_nothing(smg, before).await;
    }
}

/// A header that is told once and then named a thousand times with one byte each.
#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_large_once_they_are_unpacked() {
    let (smg, engine, before) = warm().await;
    let calls = engine.calls().len();
    for _ in 0..4 {
        let mut raw = Raw::connect(smg.main()).await;
        // It is remembered as the first entry behind the 61 that everybody knows.
        let mut first = block(PSEUDO);
        literal(&mut first, 0x40, "x-bomb", &"y".repeat(3_900));
        raw.write(frame(HEADERS, END_HEADERS | END_STREAM, 1, &first))
            .await;
        let mut bomb = block(PSEUDO);
        bomb.extend([0x80 | 62].repeat(15_000));
        for n in 1..100 {
            // 58 MB each.
            let head = frame(HEADERS, END_HEADERS, 2 * n + 1, &bomb);
            if !raw.write(head).await {
                break;
            }
        }
        served(&smg).await;
    }
    assert_eq!(engine.calls().len(), calls + 4);
    left_nothing(smg, before).await;
}

/// Answers that a client asks for and for which it gives no room.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_makes_room_for() {
    let (smg, _engine, before) = warm().await;
    let no_room = [0, 4, 0, 0, 0, 0];
    let mut all = Vec::new();
    for _ in 0..20 {
        let mut raw = Raw::connect(smg.main()).await;
        raw.write(frame(SETTINGS, 0, 0, &no_room)).await;
        let mut bytes = Vec::new();
        for n in 0..100 {
            bytes.extend(alive(2 * n + 1));
        }
        raw.write(bytes).await;
        all.push(raw);
    }
    served(&smg).await;
    drop(all);
    left_nothing(smg, before).await;
}
