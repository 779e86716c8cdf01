package main

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"

	"github.com/sirupsen/logrus"

	"github.com/projectcalico/calico/felix/calc"
	"github.com/projectcalico/calico/felix/config"
	"github.com/projectcalico/calico/felix/proto"
	"github.com/projectcalico/calico/libcalico-go/lib/backend"
	"github.com/projectcalico/calico/libcalico-go/lib/backend/syncersv1/felixsyncer"
)

// What Felix would tell its dataplane on a node, one message a line, each after the name of its type.
// What it finds wrong with what is stored goes to standard error.
func calculate(node string) error {
	logrus.SetLevel(logrus.WarnLevel)
	logrus.SetOutput(os.Stderr)
	settings := config.New()
	given := map[string]string{
		"FelixHostname": node, "DatastoreType": "etcdv3", "EtcdEndpoints": os.Getenv("ETCD_ENDPOINTS"),
	}
	if _, err := settings.UpdateFrom(given, config.EnvironmentVariable); err != nil {
		return err
	}
	settings.SetUseNodeResourceUpdates(true)
	settings.Encapsulation = config.Encapsulation{IPIPEnabled: true, VXLANEnabled: true, VXLANEnabledV6: true}
	datastore := settings.DatastoreConfig()
	client, err := backend.NewClient(datastore)
	if err != nil {
		return err
	}
	messages := make(chan any)
	graph := calc.NewAsyncCalcGraph(settings.Copy(), []chan<- any{messages}, nil)
	syncer := felixsyncer.New(client, datastore.Spec, calc.NewValidationFilter(graph, settings), true)
	graph.Start()
	syncer.Start()
	for message := range messages {
		if _, done := message.(*proto.InSync); done {
			return nil
		}
		text, err := json.Marshal(message)
		if err != nil {
			return err
		}
		fmt.Println(reflect.TypeOf(message).Elem().Name(), string(text))
	}
	return nil
}
