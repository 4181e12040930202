//! SQL text that does not depend on a server: quoting, and the statements that make a database
//! with given properties.

use std::fmt::Write as _;

use super::manifest::DatabaseProperties;

/// Quotes `name` as an SQL identifier.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes `text` as an SQL string, whatever `standard_conforming_strings` says.
pub fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// `"schema"."name"`
pub fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", quoted(schema), quoted(name))
}

/// `CREATE DATABASE` with the encoding and locale of `properties`; `target` is quoted already.
///
/// The tablespace is left out where it is the default one. Servers before 15 know no provider and
/// get none; on later ones a database that names none has that of the cluster's own templates.
pub fn create_database(target: &str, properties: &DatabaseProperties, server_version_num: u32) -> String {
    let mut sql = format!(
        "CREATE DATABASE {target} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}",
        literal(&properties.encoding),
        literal(&properties.collate),
        literal(&properties.ctype)
    );
    let mut add = |key: &str, value: &str| {
        let _ = write!(sql, " {key} {}", literal(value));
    };
    match (properties.locale_provider.as_str(), &properties.locale) {
        ("icu", Some(locale)) => {
            add("LOCALE_PROVIDER", "icu");
            add("ICU_LOCALE", locale);
        }
        ("builtin", Some(locale)) => {
            add("LOCALE_PROVIDER", "builtin");
            add("BUILTIN_LOCALE", locale);
        }
        _ if server_version_num >= 150_000 => add("LOCALE_PROVIDER", "libc"),
        _ => {}
    }
    if let Some(rules) = &properties.icu_rules {
        add("ICU_RULES", rules);
    }
    if properties.tablespace != "pg_default" {
        let _ = write!(sql, " TABLESPACE {}", quoted(&properties.tablespace));
    }
    sql
}

/// `CREATE DATABASE` as a copy of `original`; both are quoted already.
///
/// From 15 on the files themselves are copied: the other way writes all of it into the log.
pub fn copy_database(target: &str, original: &str, server_version_num: u32) -> String {
    let strategy = if server_version_num >= 150_000 { " STRATEGY FILE_COPY" } else { "" };
    format!("CREATE DATABASE {target} TEMPLATE {original}{strategy}")
}

/// The statements that give `target` (quoted already) its owner, rights, settings and comment,
/// in an order in which each may be run, one per element; all may share one transaction.
pub fn database_properties(target: &str, properties: &DatabaseProperties) -> Vec<String> {
    let mut sql = vec![
        format!("ALTER DATABASE {target} OWNER TO {}", quoted(&properties.owner)),
        format!("ALTER DATABASE {target} CONNECTION LIMIT {}", properties.connection_limit),
        format!("ALTER DATABASE {target} IS_TEMPLATE {}", properties.is_template),
        format!(
            "COMMENT ON DATABASE {target} IS {}",
            properties.comment.as_deref().map_or("NULL".into(), literal)
        ),
    ];
    if let Some(grants) = &properties.acl {
        sql.push(format!("REVOKE ALL ON DATABASE {target} FROM PUBLIC, {}", quoted(&properties.owner)));
        for grant in grants {
            let grantee = grant.grantee.as_deref().map_or("PUBLIC".into(), quoted);
            let option = if grant.is_grantable { " WITH GRANT OPTION" } else { "" };
            sql.push(format!("GRANT {} ON DATABASE {target} TO {grantee}{option}", grant.privilege));
        }
    }
    for (role, setting) in &properties.settings {
        let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
        let object = match role {
            Some(role) => format!("ALTER ROLE {} IN DATABASE {target}", quoted(role)),
            None => format!("ALTER DATABASE {target}"),
        };
        sql.push(format!("{object} SET {} TO {}", quoted_parameter(name), parameter_value(name, value)));
    }
    for (provider, label) in &properties.security_labels {
        sql.push(format!(
            "SECURITY LABEL FOR {} ON DATABASE {target} IS {}",
            quoted(provider),
            literal(label)
        ));
    }
    sql
}

/// A parameter's name: `myapp.key` is two identifiers.
fn quoted_parameter(name: &str) -> String {
    name.split('.').map(quoted).collect::<Vec<_>>().join(".")
}

/// Parameters that hold a list of identifiers, stored already quoted (`variable_is_guc_list_quote`
/// in PostgreSQL's sources): their value is a list, not one string.
const LIST_PARAMETERS: [&str; 7] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
    "restrict_nonsystem_relation_kind",
];

fn parameter_value(name: &str, value: &str) -> String {
    if !LIST_PARAMETERS.contains(&name.to_lowercase().as_str()) {
        return literal(value);
    }
    let items = list_items(value);
    if items.is_empty() {
        "''".into()
    } else {
        items.iter().map(|item| literal(item)).collect::<Vec<_>>().join(", ")
    }
}

/// Splits `a, "B c", d` as PostgreSQL's SplitIdentifierString does, without folding case.
fn list_items(value: &str) -> Vec<String> {
    let (mut items, mut item, mut is_quoted) = (Vec::new(), String::new(), false);
    let mut characters = value.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if is_quoted && characters.peek() == Some(&'"') => {
                characters.next();
                item.push('"');
            }
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => items.push(std::mem::take(&mut item)),
            c if c.is_whitespace() && !is_quoted => {}
            c => item.push(c),
        }
    }
    if !item.is_empty() || !items.is_empty() {
        items.push(item);
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_survives_its_own_quotes() {
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\b'"), r"E'a\\b'''");
    }

    #[test]
    fn list_parameters_stay_lists() {
        assert_eq!(parameter_value("search_path", r#""$user", public, "A b""#), "'$user', 'public', 'A b'");
        assert_eq!(parameter_value("search_path", ""), "''");
        assert_eq!(parameter_value("search_path", "\"\""), "''");
        assert_eq!(parameter_value("work_mem", "64MB"), "'64MB'");
        assert_eq!(quoted_parameter("myapp.Key"), "\"myapp\".\"Key\"");
    }
}
