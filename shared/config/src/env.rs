//! Environment variables as a value, because pure code never reads those of the process.

use std::collections::BTreeMap;

/// A snapshot of environment variables. It has no Debug, because it contains keys and passwords.
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

    /// No variables.
    pub fn empty() -> Self {
        Self::default()
    }

    /// The value of a variable; None when it is missing or empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// A key or a password: the variable, or else the content of the file that `<name>_FILE` names (containers get their
    /// secrets in files). White space around it is removed.
    ///
    /// # Errors
    /// When `<name>_FILE` names a file that cannot be read. The text fits after "`<name>_FILE`".
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
