//! Whether the time of a comparison tells how much of a guess is right (HS-12, PER-22).
//!
//! `ci/bench timing` runs it. Two kinds of guesses, wrong in their first and in their last byte, take turns by chance; that
//! their times differ is told from noise by Welch's t. The control compares byte by byte until two differ: where t does
//! not find that, it finds nothing.

use std::hint::black_box;
use std::time::Instant;

use local_daemon::Credential;
use local_daemon::handshake::{self, Code};

/// How often each kind is measured.
const SAMPLES: usize = 100_000;
/// How many comparisons one measurement takes: a clock has steps.
const EACH: u32 = 16;
/// Beyond this, two means are not the same.
const DIFFERENT: f64 = 4.5;

pub(crate) fn table() {
    let credential = Credential::from_bytes([0x5a; 32]);
    let right = credential.expose().as_bytes().to_vec();
    let guesses = [wrong_at(&right, 0), wrong_at(&right, right.len() - 1)];
    println!(
        "| Comparison | First byte wrong, ns | Last byte wrong, ns | t | Told apart (beyond {DIFFERENT}) |"
    );
    println!("|---|---|---|---|---|");
    row("byte by byte (control)", |kind| {
        black_box(&right).iter().zip(black_box(&guesses[kind])).all(|(a, b)| black_box(a == b))
    });
    row("bearer", |kind| credential.matches(black_box(&guesses[kind])));
    let codes = [0, 31].map(code);
    let right = code(32);
    row("proof", |kind| black_box(&right) == black_box(&codes[kind]));
}

fn wrong_at(right: &[u8], place: usize) -> Vec<u8> {
    let mut guess = right.to_vec();
    guess[place] ^= 1;
    guess
}

/// A code that is wrong in one byte, or in none.
fn code(place: usize) -> Code {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let mut bytes = [0x5a; 32];
    if let Some(byte) = bytes.get_mut(place) {
        *byte ^= 1;
    }
    let (nonce, mac) = (URL_SAFE_NO_PAD.encode([0; 32]), URL_SAFE_NO_PAD.encode(bytes));
    let header = format!("{} nonce=\"{nonce}\", mac=\"{mac}\"", handshake::SCHEME);
    handshake::parse_authorization(&header).unwrap().1
}

fn row(name: &str, compare: impl Fn(usize) -> bool) {
    let mut times = [Vec::with_capacity(SAMPLES), Vec::with_capacity(SAMPLES)];
    // Which comes next is by chance, so that nothing else on this host keeps step with it.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    while times.iter().any(|times| times.len() < SAMPLES) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let kind = usize::from(state >> 63 == 1);
        let began = Instant::now();
        for _ in 0..EACH {
            black_box(compare(black_box(kind)));
        }
        let took = began.elapsed().as_secs_f64() * 1e9 / f64::from(EACH);
        if times[kind].len() < SAMPLES {
            times[kind].push(took);
        }
    }
    let [first, last] = times.map(Sample::of);
    let t = (first.mean - last.mean) / (first.error + last.error).sqrt();
    let told = if t.abs() > DIFFERENT { "yes" } else { "no" };
    println!("| {name} | {:.2} | {:.2} | {t:.1} | {told} |", first.mean, last.mean);
}

/// The quicker nine tenths: the rest was interrupted.
struct Sample {
    mean: f64,
    /// The mean's variance.
    error: f64,
}

impl Sample {
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        times.truncate(times.len() * 9 / 10);
        let count = times.len() as f64;
        let mean = times.iter().sum::<f64>() / count;
        let variance = times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        Self { mean, error: variance / count }
    }
}
