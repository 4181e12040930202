//! Families of metrics, and their text as Prometheus reads it.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// In front of every name.
const PREFIX: &str = "belay";
/// How a scraper names OpenMetrics in what it accepts.
const OPEN_METRICS: &str = "application/openmetrics-text";

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4, which everything reads.
    Plain,
}

impl Format {
    /// The one for whoever accepts this, as the HTTP field `Accept` says it.
    pub fn for_accept(accept: &str) -> Self {
        if accept.contains(OPEN_METRICS) { Self::OpenMetrics } else { Self::Plain }
    }

    /// What the HTTP field `Content-Type` says of it.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Plain => prometheus_text::CONTENT_TYPE,
        }
    }
}

/// What a figure is about.
pub(super) type Labels = Vec<(&'static str, String)>;

/// Figures of one name.
#[derive(Debug)]
pub(super) struct Family {
    name: &'static str,
    unit: Option<Unit>,
    help: &'static str,
    figures: Vec<(Labels, f64)>,
}

impl Family {
    /// Of numbers.
    pub(super) fn number(name: &'static str, help: &'static str) -> Self {
        Self { name, unit: None, help, figures: Vec::new() }
    }

    /// Of seconds, which the name ends in.
    pub(super) fn seconds(name: &'static str, help: &'static str) -> Self {
        Self { unit: Some(Unit::Seconds), ..Self::number(name, help) }
    }

    /// Of bytes, which the name ends in.
    pub(super) fn bytes(name: &'static str, help: &'static str) -> Self {
        Self { unit: Some(Unit::Bytes), ..Self::number(name, help) }
    }

    /// With one figure, or none when it is not known.
    pub(super) fn of_one(mut self, value: impl Into<Option<f64>>) -> Self {
        self.figures.extend(value.into().map(|value| (Labels::new(), value)));
        self
    }

    /// With a figure for each of these of which it is known.
    pub(super) fn of_each<T>(
        mut self,
        all: &[T],
        labels: impl Fn(&T) -> Labels,
        value: impl Fn(&T) -> Option<f64>,
    ) -> Self {
        self.figures.extend(all.iter().filter_map(|of| Some((labels(of), value(of)?))));
        self
    }
}

/// A count as a figure.
pub(super) fn figure(count: usize) -> f64 {
    count as f64
}

/// All that is told, in order.
#[derive(Debug)]
pub(super) struct Families(pub(super) Vec<Family>);

impl Families {
    /// The text of them, and of which Belay this is.
    pub(super) fn text(self, format: Format) -> String {
        let mut registry = Registry::with_prefix(PREFIX);
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Which Belay this is", version);
        registry.register_collector(Box::new(self));
        let mut written = String::new();
        let encode = match format {
            Format::OpenMetrics => text::encode,
            Format::Plain => prometheus_text::encode,
        };
        encode(&mut written, &registry).expect("writing to a string does not fail");
        written
    }
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        for family in self.0.iter().filter(|family| !family.figures.is_empty()) {
            let unit = family.unit.as_ref();
            let mut metric = encoder.encode_descriptor(family.name, family.help, unit, MetricType::Gauge)?;
            for (labels, value) in &family.figures {
                ConstGauge::new(*value).encode(metric.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: Format) -> String {
        let odd = [("a \"quoted\\\n name", Some(1.5)), ("unknown", None)];
        let labels = |of: &(&str, Option<f64>)| Labels::from([("database", of.0.to_owned())]);
        let families = vec![
            Family::seconds("age", "How old.").of_each(&odd, labels, |of| of.1),
            Family::number("count", "How many.").of_one(3e9),
            Family::bytes("room", "Not known.").of_one(None),
        ];
        Families(families).text(format)
    }

    #[test]
    fn what_is_not_known_is_absent_and_labels_are_escaped() {
        let version = env!("CARGO_PKG_VERSION");
        let plain = format!(
            "# HELP belay_build_info Which Belay this is.\n\
             # TYPE belay_build_info gauge\n\
             belay_build_info{{version=\"{version}\"}} 1\n\
             # HELP belay_age_seconds How old.\n\
             # TYPE belay_age_seconds gauge\n\
             belay_age_seconds{{database=\"a \\\"quoted\\\\\\n name\"}} 1.5\n\
             # HELP belay_count How many.\n\
             # TYPE belay_count gauge\n\
             belay_count 3000000000.0\n"
        );
        assert_eq!(written(Format::Plain), plain);
    }

    #[test]
    fn open_metrics_names_units_and_its_end() {
        let text = written(Format::OpenMetrics);
        assert!(text.contains("# TYPE belay_build info\nbelay_build_info{"), "{text}");
        assert!(text.contains("# UNIT belay_age_seconds seconds\n"), "{text}");
        assert!(text.ends_with("belay_count 3000000000.0\n# EOF\n"), "{text}");
    }

    #[test]
    fn who_asks_for_open_metrics_gets_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.4";
        assert_eq!(Format::for_accept(prometheus), Format::OpenMetrics);
        for other in ["", "*/*", "text/plain;version=0.0.4"] {
            assert_eq!(Format::for_accept(other), Format::Plain, "{other}");
        }
    }
}
