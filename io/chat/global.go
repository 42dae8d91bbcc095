package chat

// global is what is there without being given; nil where there is none of that name.
func global(name string) value {
	var do func(r *render, a *arguments) value
	switch name {
	case "self":
		return &namespace{&dict{}} // the template's blocks, which are not called here
	case "range":
		do = makeRange
	case "dict":
		do = makeDict
	case "namespace":
		do = func(r *render, a *arguments) value { return &namespace{makeDict(r, a).(*dict)} }
	case "cycler":
		do = func(_ *render, a *arguments) value {
			if len(a.args) == 0 {
				fail("RuntimeError", "at least one item has to be provided")
			}
			return &cycler{items: a.args}
		}
	case "joiner":
		do = makeJoiner
	case "raise_exception":
		do = func(r *render, a *arguments) value {
			fail(raised, "%s", r.str(a.bind(name, "message")[0]))
			return nil
		}
	case "strftime_now":
		do = func(r *render, a *arguments) value {
			format, ok := asText(a.bind(name, "format")[0])
			if !ok {
				typeError("strftime() argument 1 must be str, not %s", typeName(a.args[0]))
			}
			return r.strftime(r.now, format)
		}
	case "lipsum":
		do = func(*render, *arguments) value {
			fail("NotSupportedError", "lipsum gives random text, and a job gives the same answer every time")
			return nil
		}
	default:
		return nil
	}
	return &function{name, do}
}

func makeRange(_ *render, a *arguments) value {
	if len(a.args) == 0 {
		typeError("range expected at least 1 argument, got 0")
	}
	args := a.bind("range", "start", "stop=", "step=")
	s := &span{0, 0, 1}
	for i, to := range []*int64{&s.start, &s.stop, &s.step} {
		if args[i] == nil {
			continue
		}
		if u, ok := args[i].(*undefined); ok {
			panic(u.fault())
		}
		n, ok := asInt(args[i])
		if _, _, kind := number(args[i]); !ok && kind != 'i' {
			typeError("'%s' object cannot be interpreted as an integer", typeName(args[i]))
		} else if !ok || n > 1<<61 || n < -1<<61 {
			tooLong()
		}
		*to = n
	}
	if args[1] == nil {
		s.start, s.stop = 0, s.start
	}
	if s.step == 0 {
		fail("ValueError", "range() arg 3 must not be zero")
	}
	if s.length() > maxRange {
		tooLong()
	}
	return s
}

func tooLong() {
	fail("OverflowError", "Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).", maxRange)
}

// makeDict is dict(mapping or pairs, name=value, …).
func makeDict(r *render, a *arguments) value {
	if len(a.args) > 1 {
		typeError("dict expected at most 1 argument, got %d", len(a.args))
	}
	d := &dict{}
	if len(a.args) == 1 {
		if from, ok := a.args[0].(*dict); ok {
			r.hold(16 * from.len()) // a map is made
			d = from.copy()
		} else {
			for _, item := range r.items(a.args[0]) {
				r.hold(2)
				pair := r.items(item)
				if len(pair) != 2 {
					fail("ValueError", "a dict is made of pairs, and one element has length %d", len(pair))
				}
				r.put(d, pair[0], pair[1])
			}
		}
	}
	for i, name := range a.names {
		d.set(name, a.kwargs[i])
	}
	return d
}

// makeJoiner gives a function that is empty the first time, and its text from then on.
func makeJoiner(_ *render, a *arguments) value {
	sep := a.bind("joiner", "sep=")[0]
	if sep == nil {
		sep = ", "
	}
	used := false
	return &function{"joiner", func(_ *render, a *arguments) value {
		a.bind("joiner")
		if used {
			return sep
		}
		used = true
		return ""
	}}
}
