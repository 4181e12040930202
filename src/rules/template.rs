//! Text with places to fill, such as `postgresql+asyncpg://{user}:{password}@{host}:{port}/{name}`.
//!
//! Comes in: the template and a value for each place. Goes out: the text. A template that holds
//! `://` is a URL, where values are percent-encoded; one that holds no place stays as it is.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What may stand in a part of a URL as it is (RFC 3986, unreserved characters).
const NOT_PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Writes `text` as a part of a URL.
pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NOT_PLAIN).to_string()
}

/// What a place of a template is filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placeholder {
    /// `{host}`
    Host,
    /// `{port}`
    Port,
    /// `{name}`: the database.
    Name,
    /// `{user}`
    User,
    /// `{password}`; nothing where there is none.
    Password,
    /// `{url}`: the whole, encoded already.
    Url,
}

impl Placeholder {
    const ALL: [(&str, Self); 6] = [
        ("host", Self::Host),
        ("port", Self::Port),
        ("name", Self::Name),
        ("user", Self::User),
        ("password", Self::Password),
        ("url", Self::Url),
    ];
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Place(Placeholder),
}

/// A text with places to fill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
    is_url: bool,
}

/// A text that is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTemplate {
    /// Braces around something unknown.
    #[error(
        "has the unknown place {{{0}}}; known are {{host}} {{port}} {{name}} {{user}} {{password}} {{url}}"
    )]
    UnknownPlace(String),
    /// A brace without its other half.
    #[error("has a brace alone; write {{{{ or }}}} for a brace itself")]
    LoneBrace,
}

impl Template {
    /// Reads a template; `{{` and `}}` mean a brace.
    ///
    /// # Errors
    /// [`InvalidTemplate`]
    pub fn parse(text: &str) -> Result<Self, InvalidTemplate> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            plain.push_str(before);
            if let Some(after) = from.strip_prefix("{{").or_else(|| from.strip_prefix("}}")) {
                plain.push_str(from.get(..1).unwrap_or_default());
                rest = after;
                continue;
            }
            let place = from.strip_prefix('{').and_then(|inner| inner.split_once('}'));
            let (name, after) = place.ok_or(InvalidTemplate::LoneBrace)?;
            let known = Placeholder::ALL.into_iter().find(|(known, _)| *known == name);
            let (_, placeholder) = known.ok_or_else(|| InvalidTemplate::UnknownPlace(name.into()))?;
            parts.push(Part::Text(std::mem::take(&mut plain)));
            parts.push(Part::Place(placeholder));
            rest = after;
        }
        parts.push(Part::Text(plain + rest));
        Ok(Self { parts, is_url: text.contains("://") })
    }

    /// Fills every place with what `value_of` says; values come as they are, [`Placeholder::Url`]
    /// alone comes encoded.
    pub fn fill(&self, value_of: impl Fn(Placeholder) -> String) -> String {
        let written = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Place(Placeholder::Url) => value_of(Placeholder::Url),
            Part::Place(place) if self.is_url => encoded(&value_of(*place)),
            Part::Place(place) => value_of(*place),
        };
        self.parts.iter().map(written).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &str) -> String {
        Template::parse(template).unwrap().fill(|place| match place {
            Placeholder::Host => "/run/postgresql".into(),
            Placeholder::Port => "5432".into(),
            Placeholder::Name => "app".into(),
            Placeholder::User => "o'hara".into(),
            Placeholder::Password => "p@ss/{name}".into(),
            Placeholder::Url => "postgresql://o%27hara@db/app".into(),
        })
    }

    #[test]
    fn places_are_filled_and_values_are_not_read_again() {
        assert_eq!(filled("{user}:{password}"), "o'hara:p@ss/{name}");
        assert_eq!(filled("{url}?ssl=1"), "postgresql://o%27hara@db/app?ssl=1");
        assert_eq!(filled("{{{name}}}"), "{app}");
        assert_eq!(filled("plain"), "plain");
    }

    #[test]
    fn values_in_a_url_are_encoded() {
        let url = filled("postgresql+asyncpg://{user}:{password}@{host}:{port}/{name}");
        assert_eq!(url, "postgresql+asyncpg://o%27hara:p%40ss%2F%7Bname%7D@%2Frun%2Fpostgresql:5432/app");
    }

    #[test]
    fn unknown_places_and_lone_braces_are_refused() {
        assert_eq!(Template::parse("{hots}"), Err(InvalidTemplate::UnknownPlace("hots".into())));
        for text in ["{", "}", "a{b", "{name}}"] {
            assert_eq!(Template::parse(text), Err(InvalidTemplate::LoneBrace), "{text}");
        }
    }
}
