//! The manifest's fields, as JSON.

use super::manifest::{BlockCache, Component, Label, Licence, Manifest, Sampling};
use super::preview::LatentRgb;
use crate::json::{self, Fields, Map, Read, Value, Write};
use crate::named::Named;

impl Read for Manifest {
    fn read(value: &Value) -> json::Result<Manifest> {
        let fields = Fields::of(value)?;
        Ok(Manifest {
            format_version: fields.required("format_version")?,
            name: fields.required("name")?,
            task: fields.required("task")?,
            sampling: fields.required("sampling")?,
            null_class: fields.optional("null_class")?,
            labels: fields.or("labels", Vec::new())?,
            licences: fields.or("licences", Vec::new())?,
            preview: fields
                .value("preview")
                .map(LatentRgb::read)
                .transpose()
                .map_err(|what| ["preview: ", &what].concat())?,
            frame_rate: fields.optional("frame_rate")?,
            components: fields.required("components")?,
            assets: fields.or("assets", Named::default())?,
        })
    }
}

impl Write for Manifest {
    fn write(&self) -> Value {
        let written = json::object([
            ("format_version", self.format_version.into()),
            ("name", self.name.as_str().into()),
            ("task", self.task.write()),
            ("sampling", self.sampling.write()),
            ("labels", self.labels.write()),
            ("licences", self.licences.write()),
            ("components", self.components.write()),
            ("assets", self.assets.write()),
        ]);
        let written = match &self.preview {
            Some(preview) => json::with(written, json::object([("preview", preview.write())])),
            None => written,
        };
        let written = match self.frame_rate {
            Some(rate) => json::with(written, json::object([("frame_rate", rate.into())])),
            None => written,
        };
        match self.null_class {
            Some(null_class) => json::with(written, json::object([("null_class", null_class.into())])),
            None => written,
        }
    }
}

impl Read for Component {
    fn read(value: &Value) -> json::Result<Component> {
        let fields = Fields::of(value)?;
        Ok(Component {
            architecture: fields.required("architecture")?,
            params: fields.required("params")?,
            variants: fields.required("variants")?,
        })
    }
}

impl Write for Component {
    fn write(&self) -> Value {
        json::object([
            ("architecture", self.architecture.as_str().into()),
            ("params", self.params.clone()),
            ("variants", self.variants.write()),
        ])
    }
}

impl Read for Sampling {
    fn read(value: &Value) -> json::Result<Sampling> {
        let fields = Fields::of(value)?;
        Ok(Sampling {
            schedule: fields.required("schedule")?,
            prediction: fields.required("prediction")?,
            time_scale: fields.required("time_scale")?,
            time_offset: fields.or("time_offset", 0.0)?,
            t_min: fields.required("t_min")?,
            t_max: fields.required("t_max")?,
            sampler: fields.required("sampler")?,
            grid: fields.optional("grid")?,
            steps: fields.required("steps")?,
            guidance_scale: fields.required("guidance_scale")?,
            guided_channels: fields.optional("guided_channels")?,
            clip_x0: fields.required("clip_x0")?,
            lower_order_final: fields.required("lower_order_final")?,
            cache: fields.optional("cache")?,
        })
    }
}

impl Write for Sampling {
    fn write(&self) -> Value {
        let written = json::object([
            ("schedule", self.schedule.write()),
            ("prediction", self.prediction.write()),
            ("time_scale", self.time_scale.into()),
            ("t_min", self.t_min.into()),
            ("t_max", self.t_max.into()),
            ("sampler", self.sampler.write()),
            ("steps", self.steps.into()),
            ("guidance_scale", self.guidance_scale.into()),
            ("clip_x0", self.clip_x0.into()),
            ("lower_order_final", self.lower_order_final.into()),
        ]);
        // What is as usual is left out, so that the model hash of those who have no such fields stays.
        let mut more = Map::new();
        if self.time_offset != 0.0 {
            more.insert("time_offset".into(), self.time_offset.into());
        }
        if let Some(grid) = self.grid {
            more.insert("grid".into(), grid.write());
        }
        if let Some(channels) = self.guided_channels {
            more.insert("guided_channels".into(), channels.into());
        }
        if let Some(cache) = &self.cache {
            more.insert("cache".into(), cache.write());
        }
        json::with(written, more.into())
    }
}

impl Read for BlockCache {
    fn read(value: &Value) -> json::Result<BlockCache> {
        let fields = Fields::of(value)?;
        Ok(BlockCache {
            outer: fields.required("outer")?,
            steps: fields.required("steps")?,
            refresh: fields.required("refresh")?,
        })
    }
}

impl Write for BlockCache {
    fn write(&self) -> Value {
        json::object([
            ("outer", self.outer.into()),
            ("steps", self.steps.into()),
            ("refresh", self.refresh.as_slice().into()),
        ])
    }
}

impl Read for Label {
    fn read(value: &Value) -> json::Result<Label> {
        let fields = Fields::of(value)?;
        let index = fields.required("index").map_err(|what| format!("a label has no index ({what})"))?;
        let of_label = |what| format!("label {index}: {what}");
        let name = fields.required("name").map_err(of_label)?;
        let facets = fields.all().filter(|(name, _)| !["index", "name"].contains(&name.as_str()));
        let facets = facets.map(|(name, facet)| match facet {
            Value::String(_) => Ok((name.clone(), facet.clone())),
            _ => Err(of_label(format!("{name} is {}, no text", json::shown(facet)))),
        });
        Ok(Label { index, name, facets: facets.collect::<json::Result<_>>()? })
    }
}

impl Write for Label {
    fn write(&self) -> Value {
        let mut fields = self.facets.clone();
        fields.insert("index".into(), self.index.into());
        fields.insert("name".into(), self.name.as_str().into());
        fields.into()
    }
}

impl Read for Licence {
    fn read(value: &Value) -> json::Result<Licence> {
        let fields = Fields::of(value)?;
        Ok(Licence {
            name: fields.required("name")?,
            spdx: fields.required("spdx")?,
            attribution: fields.required("attribution")?,
        })
    }
}

impl Write for Licence {
    fn write(&self) -> Value {
        json::object([
            ("name", self.name.as_str().into()),
            ("spdx", self.spdx.as_str().into()),
            ("attribution", self.attribution.as_str().into()),
        ])
    }
}
