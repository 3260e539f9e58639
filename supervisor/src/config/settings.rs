//! Values by their dotted keys, with the source of each, before they become a `Config`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Value};

/// The source of a value.
#[derive(Clone, Debug)]
pub enum Origin {
    Default,
    File(PathBuf, usize),
    Environment(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("the default"),
            Origin::File(file, line) => write!(f, "{} line {line}", file.display()),
            Origin::Environment(variable) => write!(f, "environment variable {variable}"),
        }
    }
}

/// Values by their dotted keys. The keys are those of the defaults; only their values change.
pub struct Settings(BTreeMap<String, (Value, Origin)>);

impl Settings {
    pub fn defaults(text: &str) -> anyhow::Result<Settings> {
        let keys = parse(text).context("the built-in config.toml")?;
        Ok(Settings(
            keys.into_iter().map(|(key, value, _)| (key, (value, Origin::Default))).collect(),
        ))
    }

    pub fn override_from_file(&mut self, file: &Path) -> anyhow::Result<()> {
        let text =
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let keys = parse(&text).with_context(|| format!("{} is not TOML", file.display()))?;
        for (key, value, line) in keys {
            self.set(&key, value, Origin::File(file.to_owned(), line))?;
        }
        Ok(())
    }

    /// Converts `text` to the type of the key's default. A text that cannot be converted stays a
    /// text, which `set` refuses.
    pub fn override_from_environment(
        &mut self,
        variable: &str,
        key: &str,
        text: String,
    ) -> anyhow::Result<()> {
        let value = match self.0.get(key) {
            Some((Value::Integer(_), _)) => {
                text.parse().map_or(Value::String(text), Value::Integer)
            }
            Some((Value::Boolean(_), _)) => {
                text.parse().map_or(Value::String(text), Value::Boolean)
            }
            Some((Value::Array(_), _)) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
            }
            _ => Value::String(text),
        };
        self.set(key, value, Origin::Environment(variable.to_owned()))
    }

    fn set(&mut self, key: &str, value: Value, origin: Origin) -> anyhow::Result<()> {
        let Some((default, _)) = self.0.get(key) else {
            if value.as_table().is_some_and(toml::Table::is_empty) && self.is_section(key) {
                return Ok(());
            }
            bail!("{origin}: unknown key {key}; {}", self.keys_near(key));
        };
        ensure!(
            default.same_type(&value),
            "{origin}: {key} must be {}, not {value}",
            match default {
                Value::Integer(_) => "a whole number",
                Value::Boolean(_) => "true or false",
                Value::Array(_) => "a list of strings in brackets",
                _ => "a string in quotes",
            }
        );
        self.0.insert(key.to_owned(), (value, origin));
        Ok(())
    }

    fn is_section(&self, name: &str) -> bool {
        let prefix = format!("{name}.");
        self.0.keys().any(|key| key.starts_with(&prefix))
    }

    /// Names the keys of the nearest existing section above `key`.
    fn keys_near(&self, key: &str) -> String {
        let mut section = key;
        loop {
            section = section.rsplit_once('.').map_or("", |(parent, _)| parent);
            let prefix = if section.is_empty() { String::new() } else { format!("{section}.") };
            let mut names: Vec<_> = self
                .0
                .keys()
                .filter_map(|key| key.strip_prefix(&prefix)?.split('.').next())
                .collect();
            names.dedup();
            if !names.is_empty() {
                let names = names.join(", ");
                return if section.is_empty() {
                    format!("the sections are {names}")
                } else {
                    format!("the keys of {section} are {names}")
                };
            }
        }
    }

    /// The values as nested TOML tables, and the source of each key.
    pub fn into_table(self) -> anyhow::Result<(Value, BTreeMap<String, Origin>)> {
        let mut root = toml::Table::new();
        let mut origins = BTreeMap::new();
        for (key, (value, origin)) in self.0 {
            let (section, name) = key.rsplit_once('.').unwrap_or(("", &key));
            let mut table = &mut root;
            for part in section.split('.').filter(|part| !part.is_empty()) {
                let child = table.entry(part).or_insert_with(|| Value::Table(toml::Table::new()));
                table = child.as_table_mut().context("a key is also a section")?;
            }
            table.insert(name.to_owned(), value);
            origins.insert(key, origin);
        }
        Ok((Value::Table(root), origins))
    }
}

/// The keys of a TOML text with their values and lines, counted from 1.
fn parse(text: &str) -> anyhow::Result<Vec<(String, Value, usize)>> {
    let values: toml::Table = toml::from_str(text)?;
    let positions = DeTable::parse(text)?;
    let mut keys = vec![];
    flatten(text, "", &values, positions.get_ref(), &mut keys);
    Ok(keys)
}

fn flatten(
    text: &str,
    prefix: &str,
    values: &toml::Table,
    positions: &DeTable<'_>,
    keys: &mut Vec<(String, Value, usize)>,
) {
    for (name, position) in positions.iter() {
        let key = format!("{prefix}{}", name.get_ref());
        let line = text[..name.span().start].matches('\n').count() + 1;
        match (values.get(name.get_ref().as_ref()), Spanned::get_ref(position)) {
            (Some(Value::Table(values)), DeValue::Table(positions)) => {
                if positions.is_empty() {
                    keys.push((key.clone(), Value::Table(toml::Table::new()), line));
                }
                flatten(text, &format!("{key}."), values, positions, keys);
            }
            (Some(value), _) => keys.push((key, value.clone(), line)),
            (None, _) => {}
        }
    }
}
