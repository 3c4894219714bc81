// What the Node clients ask with: the same tool and schema as the Python ones.

export const WEATHER = {
  description: "The weather of a city.",
  schema: {
    type: "object",
    properties: { city: { type: "string" }, unit: { type: "string", enum: ["celsius", "fahrenheit"] } },
    required: ["city"],
    additionalProperties: false,
  },
};

export const INVOICE = {
  type: "object",
  properties: {
    number: { type: "string" },
    total: { type: "number" },
    lines: { type: "array", items: { type: "string" } },
  },
  required: ["number", "total", "lines"],
  additionalProperties: false,
};

export const getWeather = ({ city }) => JSON.stringify({ city, celsius: 21 });
