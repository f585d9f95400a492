//! Reading a JSON text as a value, together with what a value cannot hold: which members were given more than once.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// The value of a JSON text, in which the last of equal members stands, and the dotted path of each member that was
/// given again.
///
/// # Errors
/// Where the text is not JSON, or is nested deeper than the parser goes.
pub(crate) fn read(raw: &[u8]) -> Result<(Value, Vec<String>), serde_json::Error> {
    let (mut path, mut repeated) = (vec![], vec![]);
    let mut reader = serde_json::Deserializer::from_slice(raw);
    let value = Reading { path: &mut path, repeated: &mut repeated }.deserialize(&mut reader)?;
    reader.end()?;
    Ok((value, repeated))
}

/// Reads the value at a path.
struct Reading<'a> {
    path: &'a mut Vec<String>,
    repeated: &'a mut Vec<String>,
}

impl Reading<'_> {
    /// For what is in this value, under a name or a number.
    fn inside(&mut self, name: String) -> Reading<'_> {
        self.path.push(name);
        Reading { path: self.path, repeated: self.repeated }
    }
}

impl<'de> DeserializeSeed<'de> for Reading<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reading<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        let mut values = vec![];
        while let Some(value) = items.next_element_seed(self.inside(values.len().to_string()))? {
            self.path.pop();
            values.push(value);
        }
        self.path.pop();
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(self.inside(name.clone()))?;
            if values.insert(name, value).is_some() {
                self.repeated.push(self.path.join("."));
            }
            self.path.pop();
        }
        Ok(Value::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_the_parser_reads() {
        let text = r#" {"a":[1,-2,2.5,1e3,18446744073709551615,true,null,"x\n\"é",{}],"":{"b":[]}} "#;
        let (value, repeated) = read(text.as_bytes()).unwrap();
        assert_eq!(value, serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(repeated, Vec::<String>::new());
    }

    #[test]
    fn members_that_are_given_again_are_named_where_they_are() {
        let text = r#"{"a":1,"b":{"c":[{"d":1},{"d":1,"d":2,"d":3}],"a":1},"a":2,"x":{"a":[]}}"#;
        let (value, repeated) = read(text.as_bytes()).unwrap();
        assert_eq!(repeated, ["b.c.1.d", "b.c.1.d", "a"]);
        assert_eq!(value["a"], 2);
    }

    #[test]
    fn what_is_no_json_is_refused_with_its_place() {
        for text in ["", "{", "[1,]", "{} x", "1e999", "\"\u{1}\"", "{\"a\"}", "nul"] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
        assert!(read(b"\"\xff\"").is_err());
    }
}
