//! Values that people write as one word, in files as on command lines.
#![forbid(unsafe_code)]

/// Has serde read types by their [`FromStr`](std::str::FromStr) and write them by their
/// [`Display`](std::fmt::Display): those with `#[serde(try_from = "String", into = "String")]`.
///
/// ```
/// use postern_nic_client::mac::Mac;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mac: Mac = serde_json::from_str(r#""02:00:00:00:00:01""#)?;
/// assert_eq!(serde_json::to_string(&mac)?, r#""02:00:00:00:00:01""#);
/// # Ok(())
/// # }
/// ```
#[macro_export]
macro_rules! serde_as_text {
    ($($text:ty),*) => {$(
        impl ::std::convert::TryFrom<String> for $text {
            type Error = <$text as ::std::str::FromStr>::Err;

            fn try_from(text: String) -> Result<$text, Self::Error> {
                text.parse()
            }
        }

        impl ::std::convert::From<$text> for String {
            fn from(value: $text) -> String {
                value.to_string()
            }
        }
    )*};
}
