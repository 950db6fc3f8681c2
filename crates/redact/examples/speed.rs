//! Measures the redactor on a folder of JSONL: MB per second of one thread's CPU time.
use std::time::Instant;
fn main() {
    let start = Instant::now();
    let mut redactor =
        jurat_redact::Redactor::new(jurat_redact::Mode::Redact, &[7; 32], &[]).expect("rules");
    println!("built in {:?}", start.elapsed());
    let mut lines = Vec::new();
    for path in std::env::args().skip(1) {
        let bytes = std::fs::read(path).expect("a file");
        lines.extend(
            bytes
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .map(<[u8]>::to_vec),
        );
    }
    let bytes: usize = lines.iter().map(Vec::len).sum();
    for _ in 0..3 {
        let start = Instant::now();
        let mut changed = 0;
        for line in &lines {
            if let Some((clean, n)) = redactor.json(line) {
                changed += n;
                std::hint::black_box(clean);
            }
        }
        println!(
            "{:.0} MB/s, {changed} found",
            bytes as f64 / 1e6 / start.elapsed().as_secs_f64()
        );
    }
    println!("{:?}", redactor.counts());
}
