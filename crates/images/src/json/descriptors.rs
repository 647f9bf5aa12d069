//! The descriptors that the crate carries, as far as the schema needs them: of a few fields with our option, far less than a library
//! for descriptors reads, and every run of the tool waits for it.

/// `google.protobuf.FileDescriptorSet`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FileSet {
    #[prost(message, repeated, tag = "1")]
    pub(super) file: Vec<File>,
}

/// `FileDescriptorProto`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct File {
    #[prost(string, optional, tag = "2")]
    pub(super) package: Option<String>,
    #[prost(message, repeated, tag = "4")]
    pub(super) message_type: Vec<MessageType>,
    #[prost(message, repeated, tag = "5")]
    pub(super) enum_type: Vec<EnumType>,
}

/// `DescriptorProto`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MessageType {
    #[prost(string, optional, tag = "1")]
    pub(super) name: Option<String>,
    #[prost(message, repeated, tag = "2")]
    pub(super) field: Vec<FieldType>,
    #[prost(message, repeated, tag = "3")]
    pub(super) nested_type: Vec<MessageType>,
    #[prost(message, repeated, tag = "4")]
    pub(super) enum_type: Vec<EnumType>,
}

/// `FieldDescriptorProto`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FieldType {
    #[prost(string, optional, tag = "1")]
    pub(super) name: Option<String>,
    #[prost(uint32, optional, tag = "3")]
    pub(super) number: Option<u32>,
    #[prost(uint32, optional, tag = "4")]
    pub(super) label: Option<u32>,
    #[prost(uint32, optional, tag = "5")]
    pub(super) r#type: Option<u32>,
    /// Of a message or an enum, with a dot before it.
    #[prost(string, optional, tag = "6")]
    pub(super) type_name: Option<String>,
    #[prost(message, optional, tag = "8")]
    pub(super) options: Option<Options>,
}

/// Values of `label`.
pub(super) mod label {
    pub(in super::super) const REQUIRED: u32 = 2;
    pub(in super::super) const REPEATED: u32 = 3;
}

/// `FieldOptions`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Options {
    #[prost(bool, optional, tag = "2")]
    pub(super) packed: Option<bool>,
    #[prost(message, optional, tag = "1018")]
    pub(super) criu: Option<Show>,
}

/// `CRIU_Opts` of `proto/opts.proto`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Show {
    #[prost(bool, tag = "1")]
    pub(super) hex: bool,
    #[prost(bool, tag = "2")]
    pub(super) ipadd: bool,
    #[prost(string, tag = "3")]
    pub(super) flags: String,
    #[prost(bool, tag = "4")]
    pub(super) dev: bool,
    #[prost(bool, tag = "5")]
    pub(super) odev: bool,
    #[prost(string, tag = "6")]
    pub(super) dict: String,
    #[prost(string, tag = "7")]
    pub(super) conv: String,
}

/// `EnumDescriptorProto`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EnumType {
    #[prost(string, optional, tag = "1")]
    pub(super) name: Option<String>,
    #[prost(message, repeated, tag = "2")]
    pub(super) value: Vec<EnumValue>,
}

/// `EnumValueDescriptorProto`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EnumValue {
    #[prost(string, optional, tag = "1")]
    pub(super) name: Option<String>,
    #[prost(int32, optional, tag = "2")]
    pub(super) number: Option<i32>,
}
