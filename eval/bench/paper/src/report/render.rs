//! Templates: the report's files are `templates/*` filled in.

use anyhow::{Context, Result};
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Value, context};
use serde::Serialize;

/// Files of templates. Those of HTML escape what they are filled with.
const TEMPLATES: [(&str, &str); 6] = [
    ("report.html", include_str!("templates/report.html")),
    ("report.md", include_str!("templates/report.md")),
    ("compare.html", include_str!("templates/compare.html")),
    ("compare.md", include_str!("templates/compare.md")),
    ("page.html", include_str!("templates/page.html")),
    ("macros.md", include_str!("templates/macros.md")),
];

/// The style sheet, for screens and for paper.
const STYLE: &str = include_str!("templates/style.css");

/// Fills in a template.
///
/// # Errors
///
/// A template that does not fit what it is filled with.
pub fn render(template: &str, content: &impl Serialize) -> Result<String> {
    let mut environment = Environment::new();
    let syntax = environment
        .syntax()
        .to_builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .keep_trailing_newline(true)
        .build()
        .context("the templates' syntax")?;
    environment.set_syntax(syntax);
    environment.set_auto_escape_callback(|name| match name.ends_with(".html") {
        true => AutoEscape::Html,
        false => AutoEscape::None,
    });
    environment.add_filter("markdown", markdown);
    for (name, text) in TEMPLATES {
        environment
            .add_template(name, text)
            .with_context(|| format!("template {name}"))?;
    }
    let template = environment.get_template(template)?;
    let text = template.render(context! { it => Value::from(Serde(content)), style => STYLE });
    text.context("filling in the report")
}

/// Text as Markdown that says nothing but the text, in one line.
fn markdown(text: String) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        match letter {
            '\\' | '|' | '`' | '*' | '[' | ']' | '#' => escaped.extend(['\\', letter]),
            '<' => escaped.push_str("&lt;"),
            '&' => escaped.push_str("&amp;"),
            '\n' | '\r' => escaped.push(' '),
            _ => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_says_the_text_alone() {
        assert_eq!(markdown("a|b\n<i>*c*".into()), "a\\|b &lt;i>\\*c\\*");
        assert_eq!(markdown("fig-01_empty_call".into()), "fig-01_empty_call");
    }
}
