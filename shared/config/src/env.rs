//! The environment variables that the pool file may be overridden with, as a value: pure code never asks the process.

use std::collections::BTreeMap;

/// A snapshot of environment variables. No Debug: it holds keys and passwords.
#[derive(Clone, Default)]
pub struct Env(BTreeMap<String, String>);

impl Env {
    /// The variables of this process that are valid UTF-8.
    pub fn of_process() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
                .collect(),
        )
    }

    /// No variables at all.
    pub fn empty() -> Self {
        Self::default()
    }

    /// The value of a variable; None also when it is set to nothing.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// A key or a password: the variable, or else what is in the file that `<name>_FILE` names, as containers get their
    /// secrets.
    ///
    /// # Errors
    /// When there is such a file name, but not the file; the text fits behind "`<name>_FILE`".
    pub fn secret(&self, name: &str) -> Result<Option<String>, String> {
        if let Some(value) = self.get(name) {
            return Ok(Some(value.to_owned()));
        }
        let Some(file) = self.get(&format!("{name}_FILE")) else {
            return Ok(None);
        };
        let text = std::fs::read_to_string(file)
            .map_err(|error| format!("names {file}, which cannot be read: {error}"))?;
        Ok(Some(text.trim().to_owned()).filter(|value| !value.is_empty()))
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        Self(
            variables
                .into_iter()
                .map(|(k, v)| (k.into(), v.into()))
                .collect(),
        )
    }
}
