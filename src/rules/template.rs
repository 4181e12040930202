//! Text with places to fill, such as `postgresql+asyncpg://{user}:{password}@{host}:{port}/{name}`.
//!
//! Comes in: the template and a value for each place. Goes out: the text. A template that holds
//! `://` is a URL, where values are percent-encoded; one that holds no place stays as it is. A place
//! may name the section of a database, as in `{billing.host}`.

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
    /// Of the database that has this section; `None` for the first.
    Place(Option<String>, Placeholder),
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
        "has the unknown place {{{0}}}; known are {{host}} {{port}} {{name}} {{user}} {{password}} {{url}}, and {{DB.host}} and so on for a database of its own"
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
            let (section, own) = match name.rsplit_once('.') {
                Some((section, own)) => (Some(section.to_owned()), own),
                None => (None, name),
            };
            let known = Placeholder::ALL.into_iter().find(|(known, _)| *known == own);
            let (_, placeholder) = known.ok_or_else(|| InvalidTemplate::UnknownPlace(name.into()))?;
            parts.push(Part::Text(std::mem::take(&mut plain)));
            parts.push(Part::Place(section, placeholder));
            rest = after;
        }
        parts.push(Part::Text(plain + rest));
        Ok(Self { parts, is_url: text.contains("://") })
    }

    /// Fills every place with what `value_of` says of it, which gets the section that it names;
    /// values come as they are, [`Placeholder::Url`] alone comes encoded. Without one of the values
    /// there is no text.
    pub fn fill(&self, value_of: impl Fn(Option<&str>, Placeholder) -> Option<String>) -> Option<String> {
        let written = |part: &Part| match part {
            Part::Text(text) => Some(text.clone()),
            Part::Place(section, place) => {
                let value = value_of(section.as_deref(), *place);
                let is_plain = *place == Placeholder::Url || !self.is_url;
                if is_plain { value } else { value.map(|value| encoded(&value)) }
            }
        };
        self.parts.iter().map(written).collect()
    }

    /// The sections that its places name.
    pub fn sections(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Place(section, _) => section.as_deref(),
            Part::Text(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &str) -> String {
        let value = |section: Option<&str>, place| {
            Some(match (section, place) {
                (Some("crm"), _) => return None,
                (Some(section), Placeholder::Name) => format!("{section} of its own"),
                (_, Placeholder::Host) => "/run/postgresql".into(),
                (_, Placeholder::Port) => "5432".into(),
                (_, Placeholder::Name) => "app".into(),
                (_, Placeholder::User) => "o'hara".into(),
                (_, Placeholder::Password) => "p@ss/{name}".into(),
                (_, Placeholder::Url) => "postgresql://o%27hara@db/app".into(),
            })
        };
        Template::parse(template).unwrap().fill(value).unwrap_or_else(|| "unset".into())
    }

    #[test]
    fn places_of_a_database_are_filled_with_its_values() {
        assert_eq!(filled("{name} {billing.name}"), "app billing of its own");
        assert_eq!(filled("x://{my.app.name}"), "x://my.app%20of%20its%20own");
        assert_eq!(filled("{name} {crm.name}"), "unset");
        let template = Template::parse("{name} {crm.name} {b.url}").unwrap();
        assert_eq!(template.sections().collect::<Vec<_>>(), ["crm", "b"]);
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
        for place in ["hots", "app.hots", "host."] {
            let refused = Template::parse(&format!("{{{place}}}"));
            assert_eq!(refused, Err(InvalidTemplate::UnknownPlace(place.into())));
        }
        for text in ["{", "}", "a{b", "{name}}"] {
            assert_eq!(Template::parse(text), Err(InvalidTemplate::LoneBrace), "{text}");
        }
    }
}
