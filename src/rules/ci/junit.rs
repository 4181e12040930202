//! JUnit's XML, as GitLab, Jenkins and GitHub's reporters read it.

/// One phase or check of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JUnitCase {
    /// What was tried.
    pub name: String,
    /// How long it took.
    pub elapsed_ms: u64,
    /// How it ended.
    pub result: JUnitResult,
}

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JUnitResult {
    /// As it should.
    Passed,
    /// It was not tried.
    Skipped,
    /// With a failure.
    Failed {
        /// In one line.
        message: String,
        /// In full.
        text: String,
    },
}

/// Writes one suite of cases as an XML document.
pub fn junit(suite: &str, cases: &[JUnitCase]) -> String {
    let count =
        |is_counted: fn(&JUnitResult) -> bool| cases.iter().filter(|case| is_counted(&case.result)).count();
    let failures = count(|result| matches!(result, JUnitResult::Failed { .. }));
    let skipped = count(|result| matches!(result, JUnitResult::Skipped));
    let (name, tests) = (attribute(suite), cases.len());
    let time = seconds(cases.iter().map(|case| case.elapsed_ms).sum());
    let cases: String = cases.iter().map(|case| element(&name, case)).collect();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite name=\"{name}\" tests=\"{tests}\" \
         failures=\"{failures}\" errors=\"0\" skipped=\"{skipped}\" time=\"{time}\">\n{cases}  </testsuite>\n\
         </testsuites>\n"
    )
}

fn element(suite: &str, case: &JUnitCase) -> String {
    let (name, time) = (attribute(&case.name), seconds(case.elapsed_ms));
    let start = format!("    <testcase classname=\"{suite}\" name=\"{name}\" time=\"{time}\"");
    match &case.result {
        JUnitResult::Passed => format!("{start}/>\n"),
        JUnitResult::Skipped => format!("{start}><skipped/></testcase>\n"),
        JUnitResult::Failed { message, text } => {
            let (message, text) = (attribute(message), escaped(text, Within::Text));
            format!("{start}>\n      <failure message=\"{message}\">{text}</failure>\n    </testcase>\n")
        }
    }
}

fn seconds(elapsed_ms: u64) -> String {
    format!("{}.{:03}", elapsed_ms / 1000, elapsed_ms % 1000)
}

fn attribute(text: &str) -> String {
    escaped(text, Within::Attribute)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    Text,
    Attribute,
}

/// Escapes what is markup; what no XML document may hold becomes U+FFFD.
fn escaped(text: &str, within: Within) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // A reader makes spaces of these in an attribute, and drops the last everywhere.
            '\n' if within == Within::Attribute => escaped.push_str("&#10;"),
            '\t' if within == Within::Attribute => escaped.push_str("&#9;"),
            '\r' => escaped.push_str("&#13;"),
            '\n' | '\t' => escaped.push(character),
            '\0'..=' ' if character != ' ' => escaped.push('\u{fffd}'),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            plain => escaped.push(plain),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str, elapsed_ms: u64, result: JUnitResult) -> JUnitCase {
        JUnitCase { name: name.into(), elapsed_ms, result }
    }

    #[test]
    fn a_suite_counts_its_cases_and_adds_their_time() {
        let failed = JUnitResult::Failed { message: "no such table".into(), text: "line 1\nline 2".into() };
        let cases = [
            case("snapshotting", 1_250, JUnitResult::Passed),
            case("migrating", 30, failed),
            case("checking", 0, JUnitResult::Skipped),
        ];
        insta::assert_snapshot!(junit("belay migrate app", &cases), @r#"
        <?xml version="1.0" encoding="UTF-8"?>
        <testsuites>
          <testsuite name="belay migrate app" tests="3" failures="1" errors="0" skipped="1" time="1.280">
            <testcase classname="belay migrate app" name="snapshotting" time="1.250"/>
            <testcase classname="belay migrate app" name="migrating" time="0.030">
              <failure message="no such table">line 1
        line 2</failure>
            </testcase>
            <testcase classname="belay migrate app" name="checking" time="0.000"><skipped/></testcase>
          </testsuite>
        </testsuites>
        "#);
    }

    #[test]
    fn markup_in_names_and_texts_stays_data() {
        let hostile = "\"/><x a='1'>&amp;]]>\r\n\u{1b}[31m\0";
        let failed = JUnitResult::Failed { message: hostile.into(), text: hostile.into() };
        let xml = junit(hostile, &[case(hostile, 1, failed)]);
        assert!(
            !xml.contains("<x") && !xml.contains("]]>") && !xml.contains(['\0', '\u{1b}', '\r']),
            "{xml}"
        );
        let attribute = "&quot;/&gt;&lt;x a='1'&gt;&amp;amp;]]&gt;&#13;&#10;\u{fffd}[31m\u{fffd}";
        assert_eq!(xml.matches(&format!("name=\"{attribute}\"")).count(), 3, "{xml}");
        assert!(xml.contains(&format!("message=\"{attribute}\"")));
    }
}
