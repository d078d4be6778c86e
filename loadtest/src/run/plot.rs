//! A report as one page that needs nothing else: tables, and bars drawn in SVG.

use super::targets::Role;
use super::{Line, Ratio, Report};
use std::fmt::Write as _;

const WIDTH: f64 = 420.0;
const ROW: f64 = 20.0;
const LABEL: f64 = 110.0;

/// One figure of a target, and how it is written.
type Figure = (&'static str, fn(&Line) -> Option<f64>, usize);

const FIGURES: &[Figure] = &[
    ("commands a second", |line| Some(line.median.rps), 0),
    ("CPU of the target, µs per command", |line| line.median.cpu_us, 2),
    ("99th percentile, ms", |line| Some(line.median.p99_ms), 3),
];

impl Report {
    /// The page.
    pub fn html(&self) -> String {
        let mut page = String::from(
            "<!doctype html><meta charset=utf-8><title>Twinlane and its peers</title><style>body{font:14px sans-serif;margin:2em;color:#222}\
             h2{margin:1.6em 0 .4em}svg{margin-right:1.5em}table{border-collapse:collapse}td,th{padding:.15em .7em;text-align:right}\
             td:first-child,th:first-child{text-align:left}tr:nth-child(even){background:#f3f3f3}</style><h1>Twinlane and its peers</h1>",
        );
        let _ = write!(
            page,
            "<p>Medians of {} rounds, all targets in turn in one run. Bars: the median; the thin line behind: least to largest round.</p>",
            self.rounds
        );
        for lines in self.by_workload() {
            let _ = write!(page, "<h2>{}</h2>", escape(&lines[0].workload));
            FIGURES.iter().for_each(|figure| bars(&mut page, lines, figure));
            table(&mut page, lines);
        }
        page
    }

    /// The tables in Markdown.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for lines in self.by_workload() {
            let _ = write!(text, "\n### {}\n\n|", lines[0].workload);
            COLUMNS.iter().for_each(|(name, _)| _ = write!(text, " {name} |"));
            let _ = write!(text, "\n|---|{}\n", "---:|".repeat(COLUMNS.len() - 1));
            for line in lines {
                text.push('|');
                COLUMNS.iter().for_each(|(_, cell)| _ = write!(text, " {} |", cell(line)));
                text.push('\n');
            }
        }
        text
    }

    fn by_workload(&self) -> impl Iterator<Item = &[Line]> {
        self.lines.chunk_by(|one, next| one.workload == next.workload)
    }
}

type Column = (&'static str, fn(&Line) -> String);

const COLUMNS: &[Column] = &[
    ("target", |line| line.target.clone()),
    ("commands/s", |line| format!("{:.0} ± {:.0} %", line.median.rps, line.rps_spread * 50.0)),
    ("to direct", |line| ratio(line.rps_to_direct)),
    ("to best peer", |line| ratio(line.rps_to_best_peer)),
    ("p50 ms", |line| format!("{:.3}", line.median.p50_ms)),
    ("to best peer", |line| ratio(line.p50_to_best_peer)),
    ("p99 ms", |line| format!("{:.3}", line.median.p99_ms)),
    ("to best peer", |line| ratio(line.p99_to_best_peer)),
    ("p99.9 ms", |line| format!("{:.3}", line.median.p999_ms)),
    ("CPU µs", |line| figure(line.median.cpu_us)),
    ("to best peer", |line| ratio(line.cpu_to_best_peer)),
    ("servers' CPU µs", |line| figure(line.median.servers_cpu_us)),
    ("MiB", |line| line.median.rss_kib.map_or("-".into(), |kib| format!("{:.1}", kib as f64 / 1024.0))),
    ("errors", |line| line.median.errors.to_string()),
];

fn ratio(ratio: Option<Ratio>) -> String {
    ratio.map_or("-".into(), |ratio| ratio.to_string())
}

fn figure(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| format!("{value:.2}"))
}

fn table(page: &mut String, lines: &[Line]) {
    page.push_str("<table><tr>");
    COLUMNS.iter().for_each(|(name, _)| _ = write!(page, "<th>{name}</th>"));
    for line in lines {
        page.push_str("</tr><tr>");
        COLUMNS.iter().for_each(|(_, cell)| _ = write!(page, "<td>{}</td>", escape(&cell(line))));
    }
    page.push_str("</tr></table>");
}

fn bars(page: &mut String, lines: &[Line], (name, of, digits): &Figure) {
    let drawn: Vec<(&Line, f64)> = lines.iter().filter_map(|line| Some((line, of(line)?))).collect();
    let spread = |line: &Line, value: f64| if *name == FIGURES[0].0 { range(line) } else { (value, value) };
    let most = drawn.iter().map(|(line, value)| spread(line, *value).1.max(*value)).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - LABEL - 70.0) / most;
    let height = ROW * (drawn.len() as f64 + 1.5);
    let _ = write!(page, "<svg width={WIDTH} height={height} role=img><text x=0 y=14 font-size=13 font-weight=bold>{name}</text>");
    for (row, (line, value)) in drawn.iter().enumerate() {
        let y = ROW * (row as f64 + 1.2);
        let colour = match line.role {
            Role::Subject => "#c2410c",
            Role::Direct => "#64748b",
            Role::Peer => "#2563eb",
            Role::Dual => "#7c3aed",
            Role::Floor => "#a3a3a3",
        };
        let (least, largest) = spread(line, *value);
        let (middle, width) = (y + ROW * 0.4, value * scale);
        let _ = write!(
            page,
            "<text x=0 y={:.1} font-size=12>{}</text><rect x={LABEL} y={y:.1} width={width:.1} height={:.1} fill={colour} />\
             <line x1={:.1} x2={:.1} y1={middle:.1} y2={middle:.1} stroke=#111 /><text x={:.1} y={:.1} font-size=12>{value:.digits$}</text>",
            y + ROW * 0.6,
            escape(&line.target),
            ROW * 0.8,
            LABEL + least * scale,
            LABEL + largest * scale,
            LABEL + largest.max(*value) * scale + 5.0,
            y + ROW * 0.6,
        );
    }
    page.push_str("</svg>");
}

/// Least and largest of the rounds.
fn range(line: &Line) -> (f64, f64) {
    let rps = || line.visits.iter().map(|visit| visit.rps);
    (rps().fold(f64::INFINITY, f64::min), rps().fold(0.0, f64::max))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Visit;

    #[test]
    fn every_target_of_every_workload_is_on_the_page_and_in_the_tables() {
        let visit = Visit {
            rps: 1000.0,
            p50_ms: 0.1,
            p99_ms: 0.2,
            p999_ms: 0.3,
            max_ms: 1.0,
            cpu_us: Some(7.5),
            servers_cpu_us: None,
            generator_cpu_us: 1.0,
            rss_kib: Some(2048),
            errors: 0,
            seconds: Vec::new(),
        };
        let line = |workload: &str, target: &str| Line {
            workload: workload.into(),
            target: target.into(),
            role: Role::Peer,
            median: visit.clone(),
            rps_to_direct: Some(Ratio { median: 0.5, least: 0.45, largest: 0.6 }),
            rps_to_best_peer: None,
            cpu_to_best_peer: None,
            p50_to_best_peer: None,
            p99_to_best_peer: None,
            rps_spread: 0.1,
            visits: vec![visit.clone()],
        };
        let report = Report { good: true, rounds: 1, lines: vec![line("a<b", "one"), line("a<b", "two"), line("c", "one")] };
        let (page, text) = (report.html(), report.markdown());
        assert_eq!((page.matches("<svg").count(), page.matches("<h2>").count(), page.matches("a&lt;b").count()), (6, 2, 1));
        assert!(text.contains("| two | 1000 ± 5 % | 0.50 (0.45–0.60) |") && text.contains("### c"), "{text}");
    }
}
