//! The table.

use std::time::Duration;

use brainy_e2e::report::thousands;

use crate::contest::Series;

/// The heading.
pub const HEADING: [&str; 10] =
    ["what", "per second", "least to most", "ours to it", "target", "p50", "p99", "p99.9", "CPU each", "resident"];

/// A line of the table, cell by cell.
pub type Row = Vec<String>;

/// A line that begins a group; the name is what it is asked for by.
pub fn group(name: &str, what: &str) -> Row {
    vec![format!("{name}: {what}")]
}

/// What is ours.
pub fn ours(what: &str, series: &Series, target: &str) -> Row {
    row(what, series, String::new(), target)
}

/// What ours is compared with; `target` is what the ratio should be.
pub fn beside(what: &str, series: &Series, ours: &Series, target: &str) -> Row {
    let ratio = ours.ratio(series);
    let text = format!("{:.2} ({:.2} to {:.2})", ratio.median, ratio.least, ratio.most);
    row(&format!("beside {what}"), series, text, target)
}

/// One figure that has no rounds.
pub fn single(what: &str, figure: String, target: &str, resident: Option<u64>) -> Row {
    let mut cells = vec![String::new(); HEADING.len()];
    cells[0] = indented(what);
    cells[1] = figure;
    target.clone_into(&mut cells[4]);
    cells[9] = resident.map(megabytes).unwrap_or_default();
    cells
}

fn row(what: &str, series: &Series, ratio: String, target: &str) -> Row {
    let rate = series.rate();
    vec![
        indented(what),
        number(rate.median),
        format!("{} to {}", number(rate.least), number(rate.most)),
        ratio,
        target.to_owned(),
        time(series.latency(500)),
        time(series.latency(990)),
        time(series.latency(999)),
        time(u64::try_from(series.cpu.as_nanos()).unwrap_or(u64::MAX)),
        series.resident.map(megabytes).unwrap_or_default(),
    ]
}

fn indented(what: &str) -> String {
    format!("  {what}")
}

fn number(rate: f64) -> String {
    if rate < 100.0 { format!("{rate:.1}") } else { thousands(rate.round() as u64) }
}

/// Seconds of a single figure.
pub fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

fn time(nanoseconds: u64) -> String {
    match nanoseconds {
        0..1_000_000 => format!("{:.0} µs", nanoseconds as f64 / 1e3),
        1_000_000..100_000_000 => format!("{:.1} ms", nanoseconds as f64 / 1e6),
        _ => format!("{:.0} ms", nanoseconds as f64 / 1e6),
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_cell_for_each_column() {
        let series = Series { rates: vec![1.0, 2.0], latencies: vec![1], ..Series::default() };
        assert_eq!(ours("a", &series, "").len(), HEADING.len());
        assert_eq!(beside("b", &series, &series, "").len(), HEADING.len());
        assert_eq!(single("c", seconds(Duration::from_millis(1500)), "", None)[1], "1.50 s");
        assert_eq!(beside("b", &series, &series, "")[3], "1.00 (1.00 to 1.00)");
    }

    #[test]
    fn times_have_three_digits_or_so() {
        assert_eq!([time(1_234), time(12_345_678), time(1_234_567_890)], ["1 µs", "12.3 ms", "1235 ms"]);
    }
}
