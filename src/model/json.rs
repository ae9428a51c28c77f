//! JSON whose errors keep their path. serde's own internally tagged enums buffer an object until they have seen its tag,
//! and what is wrong inside is reported at the object; here the tag comes first, and the rest is read as it streams.

use std::fmt;
use std::vec::IntoIter;

use serde::de::value::MapAccessDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, IntoDeserializer, MapAccess, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value};

/// The fields that say which variant an object is.
const TAGS: [&str; 2] = ["kind", "op"];

/// Makes the tag of each object its first field.
pub(super) fn tags_first(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(tags_first),
        Value::Object(fields) => {
            for tag in TAGS {
                if let Some(value) = fields.shift_remove(tag) {
                    fields.shift_insert(0, tag.into(), value);
                }
            }
            fields.values_mut().for_each(tags_first);
        }
        _ => {}
    }
}

/// Reads and writes an enum as an object whose field `$tag` names the variant; the type derives both with `remote = "Self"`.
macro_rules! tagged {
    ($type:ident, $tag:literal) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                $type::deserialize($crate::model::json::Tagged { tag: $tag, deserializer })
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let value = $type::serialize(self, serde_json::value::Serializer);
                let value = value.map_err(serde::ser::Error::custom)?;
                serde::Serialize::serialize(&$crate::model::json::with_tag($tag, value), serializer)
            }
        }
    };
}
pub(super) use tagged;

/// Reads an enum from an object: field `tag` names the variant, the other fields are the variant's. Fields that stand
/// before the tag are understood, but their errors are reported at the object.
pub(super) struct Tagged<D> {
    pub tag: &'static str,
    pub deserializer: D,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Tagged<D> {
    type Error = D::Error;

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.deserializer.deserialize_map(TaggedVisitor { tag: self.tag, visitor })
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.deserializer.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct TaggedVisitor<V> {
    tag: &'static str,
    visitor: V,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for TaggedVisitor<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with the field `{}`", self.tag)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<V::Value, A::Error> {
        let mut before = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == self.tag {
                let before = before.into_iter();
                return self.visitor.visit_enum(Fields { before, value: None, rest: map });
            }
            before.push((name, map.next_value()?));
        }
        Err(A::Error::missing_field(self.tag))
    }
}

/// An object whose next value is the tag's; then, as a map, its other fields.
struct Fields<A> {
    before: IntoIter<(String, Value)>,
    /// The value of the field from `before` whose name was read last.
    value: Option<Value>,
    rest: A,
}

impl<'de, A: MapAccess<'de>> EnumAccess<'de> for Fields<A> {
    type Error = A::Error;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(mut self, seed: T) -> Result<(T::Value, Self), A::Error> {
        Ok((self.rest.next_value_seed(seed)?, self))
    }
}

impl<'de, A: MapAccess<'de>> VariantAccess<'de> for Fields<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.struct_variant(&[], serde::de::IgnoredAny).map(|_| ())
    }
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, A::Error> {
        seed.deserialize(MapAccessDeserializer::new(self))
    }
    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, A::Error> {
        visitor.visit_map(self)
    }
    fn struct_variant<V: Visitor<'de>>(self, _: &[&str], visitor: V) -> Result<V::Value, A::Error> {
        visitor.visit_map(self)
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Fields<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        match self.before.next() {
            Some((name, value)) => {
                self.value = Some(value);
                seed.deserialize(name.into_deserializer()).map(Some)
            }
            None => self.rest.next_key_seed(seed),
        }
    }
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        match self.value.take() {
            Some(value) => seed.deserialize(value).map_err(A::Error::custom),
            None => self.rest.next_value_seed(seed),
        }
    }
}

/// The inverse of [`Tagged`]: from `{variant: {fields}}` to `{tag: variant, fields}`.
pub(super) fn with_tag(tag: &str, value: Value) -> Value {
    let Value::Object(outer) = value else { return value };
    let mut flat = Map::new();
    for (variant, fields) in outer {
        flat.insert(tag.into(), variant.into());
        if let Value::Object(fields) = fields {
            flat.extend(fields);
        }
    }
    Value::Object(flat)
}
