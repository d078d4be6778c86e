//! From layers to a checked [`Config`], collecting every mistake on the way.
//!
//! serde stops at the first mistake. So each given key is looked up in the tree of defaults (an unknown one is a mistake)
//! and tried alone on top of the defaults (a bad value is a mistake); only a set of keys that all pass is read as a whole.

use super::{Config, check};
use ::config::{Environment, File, FileFormat, Value, ValueKind};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Where the values come from, weakest first.
#[derive(Debug, Default)]
pub struct Layers {
    /// The TOML file, if one was named.
    pub file: Option<PathBuf>,
    /// The process's environment; only `TWINLANE__...` is read.
    pub environment: HashMap<String, String>,
    /// Flags: a dotted key and its value.
    pub flags: Vec<(String, String)>,
}

impl Layers {
    /// The layers of this process.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>, flags: Vec<(String, String)>) -> Layers {
        // Lossy on purpose: a variable that is not ours may hold anything, and must not stop the start.
        let text = |part: std::ffi::OsString| part.to_string_lossy().into_owned();
        Layers { file, environment: std::env::vars_os().map(|(key, value)| (text(key), text(value))).collect(), flags }
    }
}

/// Everything that is wrong with a configuration, one sentence each.
#[derive(Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<String>);

impl std::fmt::Display for Mistakes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plural = if self.0.len() == 1 { "mistake" } else { "mistakes" };
        write!(f, "the configuration has {} {plural}:", self.0.len())?;
        self.0.iter().try_for_each(|mistake| write!(f, "\n  - {mistake}"))
    }
}

impl std::error::Error for Mistakes {}

/// Reads, merges and checks.
///
/// # Errors
/// All mistakes found, never one at a time, never with a secret in them.
pub fn load(layers: &Layers) -> Result<Config, Mistakes> {
    let merged = merge(layers).map_err(|mistake| Mistakes(vec![mistake]))?;
    let mut mistakes = Vec::new();
    let known = serde_json::to_value(Config::default()).map_err(|error| Mistakes(vec![error.to_string()]))?;
    walk(&merged.cache, &known, &mut Vec::new(), &mut mistakes);
    let mut config = if mistakes.is_empty() {
        merged.try_deserialize::<Config>().map_err(|error| Mistakes(vec![safe(&error)]))?
    } else {
        // The good keys are still checked together, so that one run tells everything.
        lenient(&merged.cache)
    };
    check::read_password_files(&mut config, &mut mistakes);
    check::check(&config, &mut mistakes);
    if mistakes.is_empty() { Ok(config) } else { Err(Mistakes(mistakes)) }
}

fn merge(layers: &Layers) -> Result<::config::Config, String> {
    let mut builder = ::config::Config::builder();
    if let Some(path) = &layers.file {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
        parse_alone(path, &text)?;
        builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
    }
    // `try_parsing(true)` would rewrite secrets (00123 becomes 123); numbers are converted where a field asks for one.
    let environment = Environment::with_prefix("TWINLANE").prefix_separator("__").separator("__");
    builder = builder.add_source(environment.source(Some(layers.environment.clone())));
    for (key, value) in &layers.flags {
        builder = builder.set_override(key, value.clone()).map_err(|error| safe(&error))?;
    }
    builder.build().map_err(|error| safe(&error))
}

/// Syntax errors are told by position: the parser's own message repeats the line, and the line may hold a password.
fn parse_alone(path: &Path, text: &str) -> Result<(), String> {
    let source = File::from_str(text, FileFormat::Toml);
    match ::config::Config::builder().add_source(source).build() {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{}: {}", path.display(), too_large(text).unwrap_or_else(|| safe(&error)))),
    }
}

/// The first number that is too large for TOML's integers: the parser tells neither its line nor its key.
fn too_large(text: &str) -> Option<String> {
    let mut section = "";
    for (at, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.trim();
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        let digits = value.trim().trim_start_matches(['+', '-']).replace('_', "");
        if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<i64>().is_err() {
            let dot = if section.is_empty() { "" } else { "." };
            return Some(format!("line {}: {section}{dot}{}: the number is larger than {}", at + 1, key.trim(), i64::MAX));
        }
    }
    None
}

/// The first and last line of a parser's message: where, and what; never the quoted source line between them.
fn safe(error: &::config::ConfigError) -> String {
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains('|')).collect();
    lines.join(": ")
}

/// Visits every given key beside its default.
fn walk(value: &Value, known: &serde_json::Value, path: &mut Vec<String>, mistakes: &mut Vec<String>) {
    let (Some(section), ValueKind::Table(table)) = (known.as_object(), &value.kind) else {
        return check_leaf(value, known, &path.join("."), mistakes);
    };
    let mut keys: Vec<&String> = table.keys().collect();
    keys.sort();
    for key in keys {
        path.push(key.clone());
        match section.get(key) {
            Some(default) => walk(&table[key], default, path, mistakes),
            None => mistakes.push(unknown(&path.join("."), &table[key], section.keys())),
        }
        path.pop();
    }
}

fn unknown<'a>(path: &str, value: &Value, known: impl Iterator<Item = &'a String>) -> String {
    let known: Vec<&str> = known.map(String::as_str).collect();
    format!("{path}{}: unknown key; known here are {}", origin(value), known.join(", "))
}

fn check_leaf(value: &Value, known: &serde_json::Value, path: &str, mistakes: &mut Vec<String>) {
    if known.is_object() {
        return mistakes.push(format!("{path}{}: is a section, not a value", origin(value)));
    }
    if matches!(value.kind, ValueKind::Table(_) | ValueKind::Array(_)) {
        return mistakes.push(format!("{path}{}: is a single value, not a section or a list", origin(value)));
    }
    if let Err(error) = alone(path, value) {
        let reason = wrong_word(path, value, &error).unwrap_or_else(|| reason(path, &error));
        mistakes.push(format!("{path}{}: {reason}", origin(value)));
    }
}

/// A word that is none of an option's words, with those that are: serde's JSON names them, the reader of the layers does not.
fn wrong_word(path: &str, value: &Value, error: &::config::ConfigError) -> Option<String> {
    if !error.to_string().contains("does not have variant") {
        return None;
    }
    let word = serde_json::Value::String(value.clone().into_string().ok()?);
    let tree = path.rsplit('.').fold(word, |inner, key| serde_json::json!({ key: inner }));
    serde_json::from_value::<Config>(tree).err().map(|error| error.to_string())
}

/// The defaults with one key changed.
fn alone(path: &str, value: &Value) -> Result<Config, ::config::ConfigError> {
    ::config::Config::builder().set_override(path, value.clone())?.build()?.try_deserialize::<Config>()
}

/// What serde said; a secret's value could be in it, so there only the kind of mistake is told.
fn reason(path: &str, error: &::config::ConfigError) -> String {
    if path.contains("password") {
        return "must be a text".into();
    }
    let text = safe(error);
    let text = text.split(" for key ").next().unwrap_or_default();
    text.split(" in the environment").next().unwrap_or_default().to_owned()
}

fn origin(value: &Value) -> &'static str {
    if value.origin().is_some_and(|origin| origin.contains("environment")) { " (environment)" } else { "" }
}

/// The defaults with every key that passes alone; the others are already mistakes.
fn lenient(merged: &Value) -> Config {
    let mut builder = ::config::Config::builder();
    for (path, value) in leaves(merged, "") {
        if alone(&path, &value).is_ok()
            && let Ok(next) = builder.clone().set_override(&path, value)
        {
            builder = next;
        }
    }
    builder.build().and_then(::config::Config::try_deserialize).unwrap_or_default()
}

fn leaves(value: &Value, path: &str) -> Vec<(String, Value)> {
    let ValueKind::Table(table) = &value.kind else { return vec![(path.to_owned(), value.clone())] };
    let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    table.iter().flat_map(|(key, value)| leaves(value, &join(key))).collect()
}
