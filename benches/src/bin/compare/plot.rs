//! The plot: for each workload a group of bars, the CPU of each proxy to that of nginx.

use std::fmt::Write;

use crate::{
    programs::Kind,
    results::{Results, Row, Sample},
    stats::median,
};

/// Pixels.
const LEFT: f64 = 300.0;
const WIDTH: f64 = 560.0;
const RIGHT: f64 = 60.0;
const TOP: f64 = 56.0;
const BAR: f64 = 11.0;
const GAP: f64 = 14.0;

/// Longer bars are cut, and say how long they are: the differences that matter are near 1.
const MOST: f64 = 4.0;

/// Colours that people with any sight tell apart (Okabe and Ito); Tidegate's is the darkest.
fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::Tidegate => "#0072b2",
        Kind::Nginx => "#999999",
        Kind::HaProxy => "#e69f00",
        Kind::Envoy => "#cc79a7",
        Kind::Caddy => "#009e73",
        Kind::Pingora => "#d55e00",
    }
}

/// `results.svg`.
pub(crate) fn svg(results: &Results) -> String {
    let mut rows: Vec<&Row> = results.speed.values().filter(|row| row.rate.is_none()).collect();
    rows.sort_by_key(|row| row.place);
    let groups: Vec<(&Row, Vec<(Kind, f64)>)> =
        rows.into_iter().map(|row| (row, bars(row))).filter(|(_, bars)| !bars.is_empty()).collect();
    let lengths = groups.iter().map(|(_, bars)| bars.len() as f64 * BAR + GAP);
    let bottom = TOP + lengths.sum::<f64>();
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{w}\" height=\"{h}\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"18\" font-size=\"13\">CPU of the proxy for each request, nginx = 1; shorter is better</text>\n",
        w = LEFT + WIDTH + RIGHT,
        h = bottom + 24.0,
    );
    for (place, kind) in Kind::ALL.into_iter().enumerate() {
        let x = 10.0 + place as f64 * 90.0;
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"28\" width=\"10\" height=\"10\" fill=\"{}\"/><text x=\"{}\" y=\"37\">{}</text>",
            colour(kind),
            x + 14.0,
            kind.name()
        );
    }
    let scale = |ratio: f64| LEFT + ratio / MOST * WIDTH;
    for tick in 0..=MOST as u32 {
        let x = scale(f64::from(tick));
        let stroke = if tick == 1 { "#333" } else { "#ddd" };
        let _ = writeln!(
            out,
            "<line x1=\"{x}\" y1=\"{TOP}\" x2=\"{x}\" y2=\"{bottom}\" stroke=\"{stroke}\"/><text x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{tick}</text>",
            bottom + 14.0
        );
    }
    let mut y = TOP + GAP / 2.0;
    for (row, bars) in groups {
        let middle = y + bars.len() as f64 * BAR / 2.0 + 4.0;
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            escaped(&row.label)
        );
        for (kind, ratio) in bars {
            let end = scale(ratio.min(MOST));
            let _ = writeln!(
                out,
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"{}\" fill=\"{}\"/><text x=\"{:.1}\" y=\"{}\" font-size=\"9\">{ratio:.2}</text>",
                end - LEFT,
                BAR - 2.0,
                colour(kind),
                end + 4.0,
                y + BAR - 3.0,
            );
            y += BAR;
        }
        y += GAP;
    }
    out.push_str("</svg>\n");
    out
}

fn bars(row: &Row) -> Vec<(Kind, f64)> {
    let one = |kind| {
        let ratio = median(&row.ratios(kind, Kind::Nginx, Sample::cpu));
        ratio.is_finite().then_some((kind, ratio))
    };
    Kind::ALL.into_iter().filter_map(one).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::svg;
    use crate::{
        programs::Kind,
        results::{Cell, Results, Row, Sample},
    };

    #[test]
    fn a_bar_for_each_proxy_that_was_measured() {
        let cell = |cpu_seconds| {
            Cell::Measured(vec![Sample {
                round: 1,
                done: 1,
                failed: 0,
                first_failure: None,
                seconds: 1.0,
                cpu_seconds,
                latency: [0.0; 3],
            }])
        };
        let cells = [
            (Kind::Tidegate, cell(0.5)),
            (Kind::Nginx, cell(1.0)),
            (Kind::Envoy, cell(8.0)),
            (Kind::Caddy, Cell::Missing("no".to_owned())),
        ];
        let row = Row { label: "a < b & c".to_owned(), cells: cells.into(), ..Row::default() };
        let text = svg(&Results { speed: [("x".to_owned(), row)].into(), ..Results::default() });
        let ratios: Vec<&str> = text.lines().filter(|line| line.contains("font-size=\"9\"")).collect();
        assert_eq!(ratios.len(), 3, "{text}");
        assert!(ratios[0].contains("width=\"70.0\"") && ratios[0].contains(">0.50<"), "{}", ratios[0]);
        assert!(ratios[2].contains("width=\"560.0\"") && ratios[2].contains(">8.00<"), "cut, but named: {}", ratios[2]);
        assert!(text.contains(">a &lt; b &amp; c<"), "{text}");
    }
}
