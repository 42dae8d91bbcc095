package chat

// filter is what stands behind "|".
type filter func(r *render, v value, a *arguments) value

// filterNamed is nil where there is none of that name.
func filterNamed(name string) filter {
	switch name {
	case "upper":
		return textFilter(name, upper)
	case "lower":
		return textFilter(name, lower)
	case "capitalize":
		return textFilter(name, capitalize)
	case "title":
		return textFilter(name, titleWords)
	case "striptags":
		return textFilter(name, stripTags)
	case "wordcount":
		return wordCount
	case "trim":
		return trim
	case "replace":
		return replace
	case "indent":
		return indent
	case "truncate":
		return truncate
	case "center":
		return center
	case "join":
		return join
	case "format":
		return formatFilter
	case "string":
		return soft
	case "e", "escape":
		return escape
	case "forceescape":
		return func(r *render, v value, a *arguments) value { return escape(r, r.str(v), a) }
	case "safe":
		return func(r *render, v value, a *arguments) value { a.bind(name); return markup(r.str(v)) }
	case "urlencode":
		return urlEncode
	case "tojson":
		return tojson
	case "pprint":
		return pretty
	case "filesizeformat":
		return fileSize

	case "int":
		return toInt
	case "float":
		return toFloatFilter
	case "round":
		return round
	case "abs":
		return abs

	case "default", "d":
		return byDefault
	case "attr":
		return attrFilter
	case "length", "count":
		return func(r *render, v value, a *arguments) value { a.bind(name); return r.length(v) }
	case "list":
		return func(r *render, v value, a *arguments) value { a.bind(name); return newList(r.items(v)...) }
	case "items":
		return items
	case "first":
		return first
	case "last":
		return last
	case "reverse":
		return reverse
	case "sort":
		return sorted
	case "dictsort":
		return dictSort
	case "unique":
		return unique
	case "min", "max":
		return func(r *render, v value, a *arguments) value { return extreme(r, name, v, a) }
	case "sum":
		return sum
	case "batch":
		return batch
	case "slice":
		return inSlices
	case "groupby":
		return groupBy
	case "map":
		return mapped
	case "select", "reject", "selectattr", "rejectattr":
		return func(r *render, v value, a *arguments) value { return selected(r, name, v, a) }

	case "random":
		return refused("random gives another answer every time, and a job gives the same one")
	case "urlize", "wordwrap", "xmlattr":
		return refused("the filter " + name + " is not supported: a chat is no web page")
	}
	return nil
}

// refused is a filter of the reference's that is not built.
func refused(why string) filter {
	return func(*render, value, *arguments) value {
		fail("NotSupportedError", "%s", why)
		return nil
	}
}

// byDefault is default(value, boolean): in place of what is not defined, or with boolean of what is false.
func byDefault(_ *render, v value, a *arguments) value {
	b := a.bind("default", "default_value=", "boolean=")
	_, missing := v.(*undefined)
	if missing || b[1] != nil && truth(b[1]) && !truth(v) {
		if b[0] == nil {
			return ""
		}
		return b[0]
	}
	return v
}

func attrFilter(r *render, v value, a *arguments) value {
	name := r.str(a.bind("attr", "name")[0])
	if u, ok := v.(*undefined); ok {
		panic(u.fault())
	}
	if found := r.member(v, name); found != nil {
		return found
	}
	return &undefined{name: name, of: v}
}
