//! Renders a self-contained page, without scripts, fonts or pictures from elsewhere.

use std::fmt::Write;

use super::compare;
use super::data::{Plot, Report, digits};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;\
color:#1c2430;background:#fff}h1{font-size:1.6rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}\
.sub{color:#5b6675}table{border-collapse:collapse;width:100%;margin-top:1rem}th,td{padding:.3rem .6rem;\
text-align:right;border-bottom:1px solid #e3e7ec;font-variant-numeric:tabular-nums}th:first-child,\
td:first-child,.l{text-align:left}th{color:#5b6675;font-weight:600}.ratio{font-weight:600}.better{color:#0a7a3f}\
.worse{color:#b3261e}dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;color:#5b6675}\
dd{margin:0;color:#1c2430}svg{width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:#5b6675}\
.note{background:#f4f6f8;padding:.6rem .9rem;border-radius:.4rem;margin:.6rem 0}";
const COLOURS: [&str; 6] = ["#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626", "#0891b2"];

pub(super) fn render(report: &Report, older: Option<&Report>) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{0}: {1}</title><style>{STYLE}</style></head><body>\n\
         <h1>{0}</h1><p class=\"sub\">{1} · {2}</p>\n",
        escape(&report.scenario),
        escape(&report.target),
        escape(&report.began)
    );
    if report.interrupted {
        page.push_str("<p class=\"note\">Interrupted: the figures cover the time until then.</p>\n");
    }
    rows(&mut page, report, older);
    for plot in &report.plots {
        let _ = write!(page, "<h2>{}</h2>\n{}", escape(&plot.title), draw(plot));
    }
    for note in &report.notes {
        let _ = writeln!(page, "<p class=\"note\">{}</p>", escape(note));
    }
    for (title, pairs) in [("Asked for", &report.options), ("Machine", &report.machine)] {
        let _ = write!(page, "<h2>{title}</h2><dl>");
        for (name, value) in pairs {
            let _ = write!(page, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
        }
        page.push_str("</dl>\n");
    }
    page.push_str("</body></html>\n");
    page
}

fn rows(page: &mut String, report: &Report, older: Option<&Report>) {
    page.push_str("<table><tr><th>figure</th><th>value</th><th>floor</th><th>ratio</th>");
    page.push_str("<th class=\"l\">what the floor is</th>");
    if let Some(older) = older {
        let _ = write!(page, "<th>on {}</th><th>change</th>", escape(&older.began));
    }
    page.push_str("</tr>\n");
    for row in &report.rows {
        let unit = escape(&row.unit);
        let _ = write!(page, "<tr><td>{}</td><td>{} {unit}</td>", escape(&row.name), digits(row.value));
        match (&row.floor, row.ratio()) {
            (Some(floor), Some(ratio)) => {
                let _ = write!(
                    page,
                    "<td>{} {unit}</td><td class=\"ratio\">{ratio:.2}</td><td class=\"l\">{}</td>",
                    digits(floor.value),
                    escape(&floor.of)
                );
            }
            _ => page.push_str("<td></td><td></td><td></td>"),
        }
        match older.and_then(|older| compare::change(row, older)) {
            Some(change) => {
                let by = change.by.map(|by| format!("{:+.1} %", by * 100.0)).unwrap_or_default();
                let _ = write!(page, "<td>{} {unit}</td>", digits(change.older));
                let _ = write!(page, "<td class=\"{0}\">{by} {0}</td>", change.verdict);
            }
            None if older.is_some() => page.push_str("<td></td><td></td>"),
            None => {}
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table>\n");
}

/// Draws the curves. The vertical axis starts at 0, or is logarithmic if the values span several powers of ten.
fn draw(plot: &Plot) -> String {
    const W: f64 = 900.0;
    const H: f64 = 320.0;
    const LEFT: f64 = 70.0;
    const RIGHT: f64 = 20.0;
    const TOP: f64 = 20.0;
    const BOTTOM: f64 = 60.0;
    let points = || plot.series.iter().flat_map(|series| series.points.iter().copied());
    let most = |pick: fn((f64, f64)) -> f64| points().map(pick).fold(f64::MIN, f64::max);
    let least = |pick: fn((f64, f64)) -> f64| points().map(pick).fold(f64::MAX, f64::min);
    if points().next().is_none() {
        return "<p>No points.</p>\n".to_owned();
    }
    let (x0, x1) = (least(|point| point.0), most(|point| point.0).max(least(|point| point.0) + 1e-9));
    let top = most(|point| point.1).max(1e-9);
    let smallest = points().map(|point| point.1).filter(|y| *y > 0.0).fold(f64::MAX, f64::min);
    let logarithmic = top / smallest > 100.0;
    let (y0, y1) = match logarithmic {
        true => (smallest.log10().floor(), top.log10().ceil()),
        false => (0.0, top * 1.05),
    };
    let right = |x: f64| LEFT + (x - x0) / (x1 - x0) * (W - LEFT - RIGHT);
    let up = |y: f64| {
        let y = if logarithmic { y.max(smallest).log10() } else { y };
        H - BOTTOM - (y - y0) / (y1 - y0).max(1e-9) * (H - TOP - BOTTOM)
    };
    let mut svg = format!("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {W} {H}\" role=\"img\">");
    let steps = if logarithmic { (y1 - y0).round().max(1.0) as u32 } else { 4 };
    for step in 0..=steps {
        let level = y0 + (y1 - y0) * f64::from(step) / f64::from(steps);
        let value = if logarithmic { 10f64.powf(level) } else { level };
        let y = H - BOTTOM - (H - TOP - BOTTOM) * f64::from(step) / f64::from(steps);
        let _ = write!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#e3e7ec\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            W - RIGHT,
            LEFT - 8.0,
            y + 4.0,
            digits(value)
        );
    }
    for step in 0..=5 {
        let x = x0 + (x1 - x0) * f64::from(step) / 5.0;
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            right(x),
            H - BOTTOM + 18.0,
            digits(x)
        );
    }
    let _ = write!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text><text x=\"4\" y=\"12\">{}</text>",
        W - RIGHT,
        H - BOTTOM + 36.0,
        escape(&plot.x),
        escape(&plot.y)
    );
    for (index, series) in plot.series.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let line: Vec<String> =
            series.points.iter().map(|&(x, y)| format!("{:.1},{:.1}", right(x), up(y))).collect();
        let (x, y) = (LEFT + 140.0 * index as f64, H - 10.0);
        let _ = write!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>\
             <rect x=\"{x}\" y=\"{}\" width=\"12\" height=\"4\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"{y}\">{}</text>",
            line.join(" "),
            y - 7.0,
            x + 18.0,
            escape(&series.name)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
