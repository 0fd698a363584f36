//! A badge: the contract on the left, the verdict with roles and profiles on the right.

use maud::html;

use super::Report;
use crate::verdict::ExitCode;

pub(super) fn render(report: &Report) -> String {
    let (left, right) = (report.spec, report.title());
    let colour = match report.exit_code(false) {
        ExitCode::Conforms if report.known() == 0 => "#2f7d32",
        ExitCode::DoesNotConform => "#b3261e",
        _ => "#6b6b6b",
    };
    // No font is measured here: 7 px a character is what the usual sans-serif needs at 11 px.
    let width = |text: &str| 7 * text.chars().count() + 12;
    let (left_width, right_width) = (width(left), width(&right));
    let title = format!("{left}: {right}");
    let svg = html! {
        svg xmlns="http://www.w3.org/2000/svg" width=(left_width + right_width) height="20" role="img" aria-label=(title) {
            title { (title) }
            rect width=(left_width) height="20" fill="#444" {}
            rect x=(left_width) width=(right_width) height="20" fill=(colour) {}
            g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" {
                text x=(left_width / 2) y="14" { (left) }
                text x=(left_width + right_width / 2) y="14" { (right) }
            }
        }
    };
    svg.into_string() + "\n"
}
